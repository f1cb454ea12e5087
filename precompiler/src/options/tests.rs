use std::collections::BTreeMap;

use prewasi_engines::{Network, Optimize};

use super::*;

fn toml(text: &str) -> Result<Options, OptionsError> {
    let mut options = Options::default();
    options.set_toml(text, &Place::Runtime).map(|()| options)
}

fn annotations(options: &mut Options, list: &[(&str, &str)]) -> Result<(), OptionsError> {
    let map: BTreeMap<String, String> = list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    options.set_annotations(&map)
}

fn message(result: Result<Options, OptionsError>) -> String {
    result.expect_err("an error").to_string()
}

/// Each layer overrides the one before, option by option; an option that no layer sets has its built-in value.
#[test]
fn layers_in_their_order() {
    let folder = tempfile::tempdir().expect("temp dir");
    let file = folder.path().join("config.toml");
    fs::write(&file, "network = \"none\"\ntimeout = \"1m\"\nmemory_limit = 65536\n").expect("write");
    let mut options = Options::default();
    assert_eq!((options.guest.network, options.timeout, options.guest.memory_limit), (Network::Inherit, None, None));
    options.set_file(file).expect("a good file");
    options.set_toml("timeout = \"2m\"\nmemory_limit = \"1MiB\"", &Place::Runtime).expect("good options");
    annotations(&mut options, &[("prewasi.io/memory_limit", "none"), ("other.io/timeout", "x")]).expect("good ones");
    assert_eq!(options.guest.network, Network::None);
    assert_eq!((options.timeout, options.guest.memory_limit), (Some(Duration::from_secs(120)), None));
    assert_eq!(options.preopens, Preopens::Root);
}

/// A limit of a compile that is set reaches the settings; the others keep their values.
#[test]
fn limits_of_a_compile() {
    let mut settings = Settings::new("/nowhere", "test");
    let before = settings.clone();
    toml("compile_memory = \"1GiB\"\ncompile_slots = 3\nlock_deadline = \"500ms\"").expect("good").apply(&mut settings);
    assert_eq!((settings.compile.memory, settings.compile.slots), (1 << 30, 3));
    assert_eq!(settings.compile.lock_deadline, Duration::from_millis(500));
    assert_eq!(
        (settings.compile.timeout, settings.compile.cpu_time),
        (before.compile.timeout, before.compile.cpu_time)
    );
}

/// The documented defaults are the built-in values.
#[test]
fn defaults_are_as_documented() {
    let mut text = String::new();
    for key in KEYS.iter().filter(|key| key.default.starts_with('`')) {
        text.push_str(&format!("{} = \"{}\"\n", key.name, key.default.trim_matches('`')));
    }
    let stated = toml(&text).expect("the defaults are values");
    let (mut built_in, mut settings) = (Settings::new("/nowhere", "test"), Settings::new("/nowhere", "test"));
    Options::default().apply(&mut built_in);
    stated.apply(&mut settings);
    assert_eq!(format!("{built_in:?}"), format!("{settings:?}"));
    let options = |options: Options| {
        // The documented stack is the engines' own default.
        let tuning = Tuning { stack: None, ..options.tuning() };
        (options.preopens, options.timeout, format!("{:?}", options.guest), tuning)
    };
    assert_eq!(options(stated), options(Options::default()));
}

/// An image's annotations apply only where no other layer sets the option; few options are allowed, and a wrong value is refused.
#[test]
fn images_count_least() {
    let image = |annotations: &[(&str, &str)]| {
        let pair = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Image {
            name: "i".to_owned(),
            labels: BTreeMap::new(),
            manifest: prewasi_cache::Digest::of(b"m"),
            media_type: String::new(),
            pinned: false,
            config: prewasi_cache::Digest::of(b"c"),
            annotations: annotations.iter().map(pair).collect(),
            content: crate::Content::Wasm(Vec::new()),
            data: Vec::new(),
            imports: Vec::new(),
            stop_signal: None,
        }
    };
    let mut options = toml("memory_limit = \"1MiB\"").expect("good options");
    let says = [
        ("org.opencontainers.image.title", "x"),
        ("prewasi.io/memory_limit", "2MiB"),
        ("prewasi.io/optimize", "size"),
        ("prewasi.io/wasm_proposals", "-gc, wide-arithmetic"),
        ("prewasi.io/http_address", "3000"),
    ];
    options.set_image(&image(&says)).expect("good annotations");
    assert_eq!((options.guest.memory_limit, options.guest.http.address.port()), (Some(1 << 20), 3000));
    let tuning = options.tuning();
    assert_eq!(
        (tuning.optimize, tuning.proposals.as_slice()),
        (Optimize::Size, &["-gc".into(), "wide-arithmetic".into()][..])
    );
    for (name, value, said) in [
        ("prewasi.io/network", "none", "cannot use annotation prewasi.io/network of image i: it is not known"),
        ("prewasi.io/optimise", "size", "the nearest one is prewasi.io/optimize"),
        ("prewasi.io/memory_limit", "much", "annotation prewasi.io/memory_limit of image i: memory_limit cannot be"),
    ] {
        let error = options.clone().set_image(&image(&[(name, value)])).expect_err(name).to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// A server listens at the address in its environment, else at the one in the options.
#[test]
fn address_of_a_server() {
    let options = toml("http_address = \"[::1]:81\"").expect("good options");
    let address = |env: &[(&str, &str)]| {
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut guest = Guest { env, ..Guest::default() };
        options.limit(&mut guest).map(|()| guest.http.address.to_string())
    };
    assert_eq!(address(&[]).expect("an address"), "[::1]:81");
    assert_eq!(address(&[(ADDRESS, "82")]).expect("an address"), "0.0.0.0:82");
    assert_eq!(address(&[(ADDRESS, "10.0.0.1:83")]).expect("an address"), "10.0.0.1:83");
    for wrong in ["", "0", "host:80", "1.2.3.4", "65536"] {
        let said = address(&[(ADDRESS, wrong)]).expect_err(wrong).to_string();
        assert!(said.starts_with("cannot use variable PREWASI_HTTP_ADDRESS: http_address cannot be"), "{said}");
    }
}

/// An unknown option is refused with its name, and with the nearest known one.
#[test]
fn unknown_options_name_the_nearest() {
    for (written, nearest) in [
        ("memory-limit = 1", "memory_limit"),
        ("Timeout = \"1s\"", "timeout"),
        ("netwrok = \"none\"", "network"),
        ("[preopen]", "preopens"),
    ] {
        let said = message(toml(written));
        assert!(said.ends_with(&format!("the nearest one is {nearest:?}")), "{said}");
        assert!(said.starts_with("cannot use the options of the runtime: no option is called "), "{said}");
    }
}

/// A name that is like none of the options is not said to be near one.
#[test]
fn nothing_is_near_to_a_foreign_name() {
    for written in ["PodmanPath = 1", "x = 1", "RuntimeEngine = \"x\"", "default_runtime_name = \"runc\""] {
        let said = message(toml(written));
        assert!(said.ends_with("; docs/configuration.md lists all of them"), "{said}");
    }
}

/// The table of a runtime may contain options for runc, which are ignored; any other place refuses them.
#[test]
fn options_of_runc_are_passed_over() {
    let text = "BinaryName = \"/usr/bin/x\"\nSystemdCgroup = true\nnetwork = \"none\"";
    let mut options = Options::default();
    options.set_toml(text, &Place::Runtime).expect("it is taken");
    assert_eq!(options.guest.network, Network::None);
    let error = options.set_toml(text, &Place::File("/f".into())).expect_err("it is of no runtime");
    assert!(error.to_string().contains("BinaryName"), "{error}");
}

/// A wrong value is refused with the option, the value and the expected form.
#[test]
fn wrong_values_say_what_was_expected() {
    for (written, parts) in [
        (
            "preopens = \"readonly\"",
            ["preopens cannot be \"readonly\"", "\"root\", \"read-only\", \"mounts\", \"none\""],
        ),
        ("network = true", ["network cannot be true", "\"inherit\", \"none\""]),
        ("memory_limit = -1", ["memory_limit cannot be -1", "64MiB"]),
        ("memory_limit = \"64MB\"", ["memory_limit cannot be \"64MB\"", "KiB"]),
        ("memory_limit = \"99999999999TiB\"", ["memory_limit cannot be", "expected bytes"]),
        ("timeout = 30", ["timeout cannot be 30", "such as \"30s\", or \"none\""]),
        ("timeout = \"0s\"", ["timeout cannot be \"0s\"", "expected"]),
        ("compile_timeout = \"none\"", ["compile_timeout cannot be \"none\"", "such as \"30s\""]),
        ("compile_slots = 0", ["compile_slots cannot be 0", "above 0"]),
        ("fuel = -1", ["fuel cannot be -1", "above 0, or \"none\""]),
        ("http_concurrency = 10001", ["http_concurrency cannot be 10001", "from 1 to 10000"]),
        ("http_address = \"localhost:80\"", ["http_address cannot be", "such as \"0.0.0.0:8080\""]),
        ("wasm_proposals = [1]", ["wasm_proposals cannot be", "expected a list"]),
        ("compile_parallel = 1", ["compile_parallel cannot be 1", "true or false"]),
        ("optimize = \"fast\"", ["optimize cannot be \"fast\"", "\"speed\", \"size\", \"none\""]),
        ("allowed_annotations = \"timeout\"", ["allowed_annotations cannot be", "a list"]),
        ("allowed_annotations = [\"netwrk\"]", ["\"netwrk\" has no annotation", "\"network\""]),
        ("allowed_annotations = [\"compile_slots\"]", ["\"compile_slots\" has no annotation", "compile_slots"]),
    ] {
        let said = message(toml(written));
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

/// Invalid TOML is refused with the line.
#[test]
fn syntax_errors_name_the_line() {
    let said = message(toml("network = \"none\"\n\ntimeout ="));
    assert!(said.starts_with("cannot parse the options of the runtime, line 3: "), "{said}");
}

/// A missing file is an error if it was named explicitly.
#[test]
fn missing_files_are_errors() {
    let error = Options::default().set_file("/no/such/file.toml".into()).expect_err("there is none");
    assert_eq!(error.to_string(), "cannot read /no/such/file.toml");
}

/// prewasi's annotations are refused if they are unknown, set an option that annotations cannot set, or are not allowed.
#[test]
fn annotations_are_checked() {
    let refused = |options: &mut Options, name: &str, value: &str| {
        annotations(options, &[(name, value)]).expect_err("an error").to_string()
    };
    let mut options = Options::default();
    let said = refused(&mut options, "prewasi.io/time-out", "1s");
    assert!(said.ends_with("the nearest one is prewasi.io/timeout"), "{said}");
    let said = refused(&mut options, "prewasi.io/compile_slots", "1");
    assert!(said.contains("prewasi.io/compile_slots: it is not known"), "{said}");
    let said = refused(&mut options, "prewasi.io/timeout", "soon");
    assert!(said.starts_with("cannot use annotation prewasi.io/timeout: timeout cannot be \"soon\""), "{said}");
    options.set_toml("allowed_annotations = [\"timeout\"]", &Place::Runtime).expect("good");
    annotations(&mut options, &[("prewasi.io/timeout", "1s")]).expect("this one is allowed");
    let said = refused(&mut options, "prewasi.io/network", "inherit");
    assert!(said.ends_with("allows annotations for [timeout] only"), "{said}");
}

/// A duration is a whole number with a unit; any other text is none.
#[test]
fn durations() {
    assert_eq!(duration("0s"), Some(Duration::ZERO));
    assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
    assert_eq!(duration("36h"), Some(Duration::from_secs(36 * 3_600)));
    assert_eq!(duration("2w"), Some(Duration::from_secs(14 * 86_400)));
    for wrong in ["", "d", "30", "-1d", "+1d", "1.5h", "1 d", "30ü", "99999999999999999999d", "18446744073709551615w"]
    {
        assert_eq!(duration(wrong), None, "{wrong}");
    }
}

/// The table in the documentation equals the table in the code, word by word.
#[test]
fn documentation_has_every_option() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).take(KEYS.len()).collect();
    let expected: Vec<String> = KEYS.iter().map(row).collect();
    assert_eq!(rows, expected);
    let after = page.lines().skip_while(|line| *line != expected[expected.len() - 1]).nth(1);
    assert_eq!(after, Some(""), "the table ends with the last option");
}

fn row(key: &Key) -> String {
    let annotation = if key.annotation { format!("`{OPTION_PREFIX}{}`", key.name) } else { "no".to_owned() };
    let meaning = key.meaning.split_whitespace().collect::<Vec<_>>().join(" ");
    let image = if key.image { "yes" } else { "no" };
    format!("| `{}` | {} | {} | {annotation} | {image} | {meaning} |", key.name, key.values, key.default)
}

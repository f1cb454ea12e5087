//! Parameters of the guest: the image's, overridden by the command line's, as in container tools.

use std::path::{Path, PathBuf};

use clap::Args;
use prewasi_engines::{Guest, Preopen};

use crate::ImageProcess;
use crate::entrypoint::split_function;

/// Environment of a container whose image has none, as containerd sets it.
const DEFAULT_PATH: (&str, &str) = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");

/// The arguments about the guest's start.
#[derive(Debug, Args)]
pub(super) struct GuestArgs {
    /// Environment variable; NAME alone takes the value from this environment
    #[arg(long, short, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Folder that the guest may use, under its own name or under another
    #[arg(long, value_name = "HOST[:GUEST]", value_parser = folder)]
    dir: Vec<Preopen>,
    /// Program to run instead of the image's entrypoint, which also leaves out the image's command: FILE[#FUNCTION]
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
}

impl GuestArgs {
    /// Makes the guest, and returns also the program's name, which selects a layer. `process` is the image's process, if there is an image.
    /// `title` is the name if neither the image nor the command line has one; the arguments are then the program's own.
    pub(super) fn guest(&self, process: Option<ImageProcess>, title: &str, args: &[String]) -> (Guest, String) {
        let is_image = process.is_some();
        let process = process.unwrap_or_default();
        let is_silent = process.entrypoint.is_empty() && process.cmd.is_empty();
        let mut words = match &self.entrypoint {
            Some(entrypoint) => vec![entrypoint.clone()],
            None if is_silent => vec![title.to_owned()],
            None => process.entrypoint,
        };
        if !args.is_empty() {
            words.extend_from_slice(args);
        } else if self.entrypoint.is_none() {
            words.extend(process.cmd);
        }
        let (program, function) = split_function(words.first().map_or("", String::as_str));
        let (program, function) = (program.to_owned(), function.map(str::to_owned));
        if let Some(first) = words.first_mut() {
            first.clone_from(&program);
        }
        let cwd = Path::new("/").join(process.working_dir.map(PathBuf::from).unwrap_or_default());
        let env = self.environment(is_image, &process.env);
        (Guest { args: words, env, cwd, preopens: self.dir.clone(), function, ..Guest::default() }, program)
    }

    /// Returns the environment of the guest. A file without an image gets only the variables of the command line.
    fn environment(&self, is_image: bool, of_image: &[String]) -> Vec<(String, String)> {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut env: Vec<_> = of_image.iter().filter_map(|line| line.split_once('=')).map(own).collect();
        if is_image && env.is_empty() {
            env.push(own(DEFAULT_PATH));
        }
        for (name, value) in &self.env {
            let Some(value) = value.clone().or_else(|| std::env::var(name).ok()) else { continue };
            match env.iter_mut().find(|(known, _)| known == name) {
                Some((_, old)) => *old = value,
                None => env.push((name.clone(), value)),
            }
        }
        env
    }
}

fn variable(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() { Err("expected NAME or NAME=VALUE".to_owned()) } else { Ok((name.to_owned(), value)) }
}

fn folder(text: &str) -> Result<Preopen, String> {
    let (host, guest) = text.split_once(':').unwrap_or((text, text));
    if host.is_empty() || guest.is_empty() {
        return Err("expected HOST or HOST:GUEST".to_owned());
    }
    Ok(Preopen { host: host.into(), guest: guest.to_owned(), read_only: false })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        args: GuestArgs,
    }

    fn guest(options: &[&str], process: &str, args: &[&str]) -> Guest {
        let process = serde_json::from_str(process).expect("a config");
        let options = Alone::try_parse_from([&["run"], options].concat()).expect("options");
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        options.args.guest(Some(process), "title.wasm", &args).0
    }

    const IMAGE: &str =
        r#"{"Entrypoint": ["/a.wasm#f", "x"], "Cmd": ["y"], "Env": ["A=1", "B=2=2", "broken"], "WorkingDir": "/w"}"#;

    /// Arguments replace the image's command but not its entrypoint; `--entrypoint` replaces both.
    #[test]
    fn arguments_replace_the_command() {
        let args = |options: &[&str], args: &[&str]| guest(options, IMAGE, args).args;
        assert_eq!(args(&[], &[]), ["/a.wasm", "x", "y"]);
        assert_eq!(args(&[], &["z", "--flag"]), ["/a.wasm", "x", "z", "--flag"]);
        assert_eq!(args(&["--entrypoint", "/b.wasm"], &[]), ["/b.wasm"]);
        assert_eq!(args(&["--entrypoint", "/b.wasm"], &["z"]), ["/b.wasm", "z"]);
    }

    /// With a command and no entrypoint, the first argument is the program; without either, the program's name is the layer's title.
    #[test]
    fn program_has_a_name() {
        let only_command = r#"{"Entrypoint": null, "Cmd": ["/c.wasm", "1"]}"#;
        assert_eq!(guest(&[], only_command, &[]).args, ["/c.wasm", "1"]);
        assert_eq!(guest(&[], only_command, &["/d.wasm"]).args, ["/d.wasm"]);
        assert_eq!(guest(&[], "{}", &["1"]).args, ["title.wasm", "1"]);
    }

    /// The function follows the last `#` of the entrypoint, and is not part of the arguments.
    #[test]
    fn functions() {
        assert_eq!(guest(&[], IMAGE, &[]).function.as_deref(), Some("f"));
        assert_eq!(guest(&["--entrypoint", "/b.wasm#g"], IMAGE, &[]).function.as_deref(), Some("g"));
        assert_eq!(guest(&["--entrypoint", "/b.wasm"], IMAGE, &[]).function, None);
    }

    /// The command line changes single variables of the image's environment; an empty environment gets a search path.
    #[test]
    fn environment() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let changed = guest(&["--env", "A=", "-e", "C=a b", "--env", "PREWASI_NEVER_SET"], IMAGE, &[]);
        assert_eq!(changed.env, [pair("A", ""), pair("B", "2=2"), pair("C", "a b")]);
        assert_eq!(guest(&[], "{}", &[]).env, [pair(DEFAULT_PATH.0, DEFAULT_PATH.1)]);
        let options = Alone::try_parse_from(["run", "--env", "A=1"]).expect("options");
        assert_eq!(options.args.guest(None, "a.wasm", &[]).0.env, [pair("A", "1")]);
    }

    /// The guest has the named folders, and the image's working directory.
    #[test]
    fn folders() {
        let given = guest(&["--dir", ".", "--dir", "/tmp/x:/data"], IMAGE, &[]);
        let folder = |host: &str, guest: &str| Preopen { host: host.into(), guest: guest.to_owned(), read_only: false };
        assert_eq!(given.preopens, [folder(".", "."), folder("/tmp/x", "/data")]);
        assert_eq!(given.cwd, Path::new("/w"));
        assert_eq!(guest(&[], r#"{"WorkingDir": "w"}"#, &[]).cwd, Path::new("/w"));
        for wrong in ["", ":", "a:", ":b"] {
            assert!(Alone::try_parse_from(["run", "--dir", wrong]).is_err(), "{wrong:?}");
        }
    }
}

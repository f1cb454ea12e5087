//! Components that answer HTTP requests: the container is a server.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prewasi_test::guests::WEB;
use prewasi_test::http::{self, Connection};
use prewasi_test::image::{self, JAVASCRIPT, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Namespace, case, eventually, home};
use rustix::process::Signal;
use serde_json::json;

mod preview3;
mod processes;
mod stops;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(requests_are_answered),
        case!(connections_are_kept_and_http_2_is_spoken),
        case!(each_request_has_its_own_instance),
        case!(instances_have_their_memory_from_a_pool),
        case!(instances_answer_several_requests),
        case!(prints_reach_the_outputs),
        case!(failures_are_answers_and_log_lines),
        case!(guest_that_takes_too_long_is_ended),
        case!(guest_that_computes_keeps_nobody_waiting),
        case!(too_many_requests_are_refused),
        case!(memory_of_the_container_limits_the_instances),
        case!(bodies_have_a_limit),
        case!(sigterm_finishes_what_has_begun),
        case!(stop_has_a_grace),
        case!(address_that_is_taken_is_named),
        case!(requests_to_others),
        case!(requests_to_others_over_tls),
        case!(network_can_be_denied),
        case!(component_of_javascript_serves, needs JavaScript),
    ];
    cases.extend(preview3::cases());
    cases.extend(processes::cases());
    cases.extend(stops::cases());
    cases
}

const LIMIT: Duration = Duration::from_secs(20);

fn web(namespace: &Namespace, guest: &str) -> String {
    let program = Program::guest(namespace, guest);
    image::import(namespace, "web", |image| image.layer(program.layer("web.wasm"))).name
}

/// Describes a server in the node's network, at an address of its own.
fn server(namespace: &Namespace, image: &str, address: &str) -> prewasi_test::container::Builder {
    let namespaces = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    let env = format!("PREWASI_HTTP_ADDRESS={address}");
    namespace.container(image).env(&env).change(json!({ "linux": { "namespaces": namespaces } }))
}

/// Starts a server with these options; returns it and its address.
async fn serve(namespace: &Namespace, options: &str) -> (Container, String) {
    serve_guest(namespace, WEB, options).await
}

async fn serve_guest(namespace: &Namespace, guest: &str, options: &str) -> (Container, String) {
    let (image, address) = (web(namespace, guest), format!("127.0.0.1:{}", http::free_port()));
    let mut container = server(namespace, &image, &address).options(options).create().await;
    container.start().await;
    listens(&address).await;
    (container, address)
}

async fn listens(address: &str) {
    eventually("a server", LIMIT, async || http::ask(address, "/", b"").await.map(drop)).await;
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Opens connections to the process that answered the only request of a server so far. Its processes get connections in turn, one each.
async fn connections_to_one_process<const COUNT: usize>(address: &str, processes: usize) -> [Connection; COUNT] {
    let mut chosen = Vec::new();
    for number in 1..=COUNT * processes {
        let connection = Connection::open(address).await.expect("a connection");
        if number % processes == 0 {
            chosen.push(connection);
        }
    }
    chosen.try_into().unwrap_or_else(|_| panic!("there are {COUNT}"))
}

async fn says(address: &str, path: &str) -> (u16, String) {
    let answer = http::ask(address, path, b"").await.unwrap_or_else(|error| panic!("{path}: {error}"));
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

/// A component without any option is a server, with its environment and files; a body goes to it and comes back.
async fn requests_are_answered(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    assert_eq!(says(&address, "/").await, ok("hello\n"));
    assert_eq!(says(&address, "/no-such").await.0, 404);
    assert_eq!(says(&address, "/env/PREWASI_HTTP_ADDRESS").await, ok(&address));
    let (status, name) = says(&address, "/file/proc/self/comm").await;
    assert!(status == 200 && !name.is_empty(), "{status} {name:?}");
    assert_eq!(says(&address, "/file/no-such").await.0, 404);
    assert_eq!(says(&address, "/stream").await, ok("1\n2\n3\n"));
    assert_eq!(says(&address, "/big/1000000").await.1.len(), 1_000_000);
    let body: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    assert_eq!(http::ask(&address, "/echo", &body).await.expect("an answer").body, body);
    container.end().await;
}

/// A connection serves several requests; a client may speak HTTP/2 from the beginning, with requests side by side.
async fn connections_are_kept_and_http_2_is_spoken(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    for mut connection in [
        Connection::open(&address).await.expect("a connection"),
        Connection::open_two(&address).await.expect("a connection"),
    ] {
        for _ in 0..3 {
            assert_eq!(connection.ask("/", b"").await.expect("an answer").body, b"hello\n");
        }
        let answer = connection.ask("/echo", b"there and back").await.expect("an answer");
        assert_eq!(answer.body, b"there and back");
    }
    container.end().await;
}

/// No request sees data of another one, whether the system reports written pages (`PAGEMAP_SCAN`) or not.
async fn each_request_has_its_own_instance(namespace: Namespace) {
    let image = web(&namespace, WEB);
    let scan = json!([{ "index": 1, "value": 0xc060_6610_u32, "op": "SCMP_CMP_EQ" }]);
    let denied = json!([{ "names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": scan }]);
    let denied = json!({ "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "syscalls": denied } } });
    for change in [json!({}), denied] {
        let address = format!("127.0.0.1:{}", http::free_port());
        let mut container = server(&namespace, &image, &address).change(change).create().await;
        container.start().await;
        listens(&address).await;
        for _ in 0..4 * cores() {
            assert_eq!(says(&address, "/count").await, ok("1\n"));
        }
        container.end().await;
    }
}

/// The address space for the memories of all instances is there from the beginning, and nothing is mapped for a request.
async fn instances_have_their_memory_from_a_pool(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    let processes = container.pids().await.expect("they are listed");
    let mapped = || -> Vec<u64> {
        let sizes = processes.iter().map(|process| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("it runs");
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("it has a size");
            size.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number") >> 20
        });
        sizes.collect()
    };
    let before = mapped();
    assert!(before.iter().all(|size| *size > 512), "{before:?} GiB");
    for _ in 0..20 {
        assert_eq!(says(&address, "/").await, ok("hello\n"));
    }
    assert_eq!(mapped(), before);
    container.end().await;
}

/// An instance answers as many requests as it is told, one after the other; one that trapped answers none.
async fn instances_answer_several_requests(namespace: Namespace) {
    // With one at a time there is one process that serves. The first request was that of the helper that waits for the server.
    let (container, address) = serve(&namespace, "http_instance_requests = 3\nhttp_concurrency = 1").await;
    for expected in ["2\n", "3\n", "1\n", "2\n"] {
        assert_eq!(says(&address, "/count").await, ok(expected));
    }
    assert_eq!(says(&address, "/trap").await.0, 500);
    assert_eq!(says(&address, "/count").await, ok("1\n"));
    container.end().await;
}

/// A guest's prints go to the outputs of the container, also after its answer.
async fn prints_reach_the_outputs(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    assert_eq!(says(&address, "/print").await, ok("printed\n"));
    assert_eq!(says(&address, "/after/200").await, ok("answered\n"));
    eventually("both lines", LIMIT, async || match container.stdout().as_str() {
        "to stdout\nafter the answer\n" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    assert!(container.stderr().contains("to stderr\n"), "{}", container.stderr());
    container.end().await;
}

/// A guest that traps, exits or does not answer is a 500 and a line with path and reason; the server goes on.
async fn failures_are_answers_and_log_lines(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    for (path, reason) in [
        ("/trap", "the guest trapped: wasm trap: wasm `unreachable` instruction executed"),
        ("/late-trap", "the guest trapped: wasm trap: wasm `unreachable` instruction executed"),
        ("/exit", "the guest exited with 1 instead of answering"),
        ("/none", "the guest gave no answer"),
    ] {
        match http::ask(&address, path, b"").await {
            Ok(answer) => assert_eq!(answer.status, 500, "{path}"),
            // The server had time to send the answer's beginning.
            Err(error) => assert_eq!(path, "/late-trap", "{error}"),
        }
        let line = format!("error: GET {path}: {reason}");
        assert!(container.stderr().contains(&line), "{line:?} in {}", container.stderr());
        assert_eq!(says(&address, "/").await, ok("hello\n"));
    }
    container.end().await;
}

/// A guest that does not answer in time is a 504, whether it waits or computes, and a line.
async fn guest_that_takes_too_long_is_ended(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_timeout = \"500ms\"").await;
    for path in ["/sleep/60000", "/spin"] {
        let start = Instant::now();
        assert_eq!(says(&address, path).await.0, 504, "{path}");
        assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
        let line = format!("error: GET {path}: no answer within 500ms, the limit set by `http_timeout`");
        assert!(container.stderr().contains(&line), "{line:?} in {}", container.stderr());
    }
    container.end().await;
}

/// While guests compute on every core, others are answered.
async fn guest_that_computes_keeps_nobody_waiting(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_timeout = \"30s\"").await;
    let spinning: Vec<_> = (0..2 * cores())
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { http::ask(&address, "/spin", b"").await })
        })
        .collect();
    http::requests_are_read(&address, 2 * cores()).await;
    for _ in 0..5 {
        assert_eq!(says(&address, "/").await, ok("hello\n"));
    }
    assert!(spinning.iter().all(|request| !request.is_finished()));
    container.end().await;
}

/// Above its concurrency a server lets as many wait, and refuses the others at once, saying when to come again.
async fn too_many_requests_are_refused(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_concurrency = 2").await;
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { http::ask(&address, "/sleep/1500", b"").await.expect("an answer") })
        })
        .collect();
    let mut statuses = Vec::new();
    for request in asking {
        let answer = request.await.expect("the task ends");
        assert_eq!(answer.headers.contains_key("retry-after"), answer.status == 503);
        statuses.push(answer.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 503, 503]);
    assert_eq!(says(&address, "/").await, ok("hello\n"));
    container.end().await;
}

/// A container with little memory has fewer instances at the same time than it is told.
async fn memory_of_the_container_limits_the_instances(namespace: Namespace) {
    let (image, address) = (web(&namespace, WEB), format!("127.0.0.1:{}", http::free_port()));
    let limit = json!({ "linux": { "resources": { "memory": { "limit": 8 << 20 } } } });
    let mut container = server(&namespace, &image, &address).change(limit).create().await;
    container.start().await;
    listens(&address).await;
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let address = address.clone();
            tokio::spawn(async move { http::ask(&address, "/sleep/1000", b"").await.expect("an answer").status })
        })
        .collect();
    let mut refused = 0;
    for request in asking {
        refused += usize::from(request.await.expect("the task ends") == 503);
    }
    assert!(refused >= 10, "{refused} of 20 were refused");
    container.end().await;
}

/// A body that is too long is refused by its length, or ends with an error for the guest if it says none.
async fn bodies_have_a_limit(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_body_limit = 1000").await;
    assert_eq!(http::ask(&address, "/echo", &[b'x'; 1000]).await.expect("an answer").body.len(), 1000);
    assert_eq!(http::ask(&address, "/echo", &[b'x'; 1001]).await.expect("an answer").status, 413);
    container.end().await;
}

/// After SIGTERM the server accepts no new request, finishes the current ones, and then the container ends with 0.
async fn sigterm_finishes_what_has_begun(namespace: Namespace) {
    let (mut container, address) = serve(&namespace, "").await;
    let begun = {
        let address = address.clone();
        tokio::spawn(async move { http::ask(&address, "/sleep/1500", b"").await })
    };
    // A client that keeps a connection open is no reason to go on.
    let mut idle = Connection::open(&address).await.expect("a connection");
    idle.ask("/", b"").await.expect("an answer");
    http::requests_are_read(&address, 2).await;
    container.kill(Signal::TERM).await.expect("it runs");
    eventually("the end of the listener", Duration::from_secs(1), async || match http::ask(&address, "/", b"").await {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    })
    .await;
    let answer = begun.await.expect("the task ends").expect("an answer");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"slept\n"[..]));
    assert_eq!(container.wait().await, 0);
    container.delete().await;
}

/// Requests that are not finished within the grace are cut off.
async fn stop_has_a_grace(namespace: Namespace) {
    let (image, address) = (web(&namespace, WEB), format!("127.0.0.1:{}", http::free_port()));
    let mut container = server(&namespace, &image, &address).env("PREWASI_STOP_GRACE=1").create().await;
    container.start().await;
    listens(&address).await;
    let begun = {
        let address = address.clone();
        tokio::spawn(async move { http::ask(&address, "/sleep/20000", b"").await })
    };
    http::requests_are_read(&address, 1).await;
    let start = Instant::now();
    container.kill(Signal::TERM).await.expect("it runs");
    assert_eq!(container.wait().await, 143);
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    assert!(begun.await.expect("the task ends").is_err());
    container.delete().await;
}

/// A server that cannot listen says where and why, and ends with 126; so does one whose address is none.
async fn address_that_is_taken_is_named(namespace: Namespace) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it has one").to_string();
    let image = web(&namespace, WEB);
    let exited = server(&namespace, &image, &address).run().await;
    assert_eq!(exited.code, 126);
    assert!(
        exited.stderr.contains(&format!("cannot listen on {address}: Address already in use")),
        "{}",
        exited.stderr
    );
    let Err(status) = server(&namespace, &image, "somewhere:80").try_create().await else {
        panic!("an address that is none was accepted");
    };
    assert!(status.message().contains("cannot use variable PREWASI_HTTP_ADDRESS"), "{status}");
}

/// A guest asks another server, and is told when there is none.
async fn requests_to_others(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    let (other, there) = serve(&namespace, "").await;
    assert_eq!(says(&address, &format!("/fetch/http/{there}/count")).await, ok("status 200\n1\n"));
    assert_eq!(says(&address, &format!("/fetch/http/{there}/nothing")).await, ok("status 404\nno such path\n"));
    other.end().await;
    // 6 is `connection-refused`, 1 `DNS-error`.
    assert_eq!(says(&address, &format!("/fetch/http/{there}/")).await, (502, "error 6\n".to_owned()));
    assert_eq!(says(&address, "/fetch/http/nowhere.invalid/").await, (502, "error 1\n".to_owned()));
    container.end().await;
}

/// A server of TLS, ended when it is dropped.
struct TlsServer(Child);

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Over TLS a guest trusts the certificates that its container has, and no others.
async fn requests_to_others_over_tls(namespace: Namespace) {
    let folder = namespace.folder().join("tls");
    fs::create_dir_all(&folder).expect("the folder is ours");
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([key.as_os_str(), "-out".as_ref(), certificate.as_os_str()])
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = http::free_port();
    let mut openssl = Command::new("openssl");
    openssl.args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}"), "-key"]);
    openssl
        .args([key.as_os_str(), "-cert".as_ref(), certificate.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let tls = TlsServer(openssl.spawn().expect("openssl runs"));
    eventually("a server of TLS", LIMIT, async || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
    })
    .await;

    let (image, address) = (web(&namespace, WEB), format!("127.0.0.1:{}", http::free_port()));
    let mount = json!({ "destination": "/tls", "type": "bind", "source": folder, "options": ["rbind", "ro"] });
    let hosts =
        json!({ "destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind", "ro"] });
    let path = format!("/fetch/https/localhost:{port}/");
    for (trusted, status) in [(true, 200), (false, 502)] {
        let file = if trusted { "SSL_CERT_FILE=/tls/cert.pem" } else { "A=b" };
        let mut container =
            server(&namespace, &image, &address).mount(mount.clone()).mount(hosts.clone()).env(file).create().await;
        container.start().await;
        listens(&address).await;
        let (answered, body) = says(&address, &path).await;
        assert_eq!(answered, status, "{body}");
        // 12 is `TLS-protocol-error`.
        let expected = if trusted { "status 200\n" } else { "error 12\n" };
        assert!(body.starts_with(expected), "{body}");
        container.end().await;
    }
    drop(tls);
}

/// Without a network a guest is refused requests to others, and answers all the same.
async fn network_can_be_denied(namespace: Namespace) {
    let (container, address) = serve(&namespace, "network = \"none\"").await;
    // 15 is `HTTP-request-denied`.
    assert_eq!(says(&address, &format!("/fetch/http/{address}/")).await, (502, "error 15\n".to_owned()));
    container.end().await;
}

/// A component that componentize-js has made of JavaScript is compiled ahead of time and serves: paths, headers, bodies, prints, and
/// requests to others. An exception that nobody catches ends only its request.
async fn component_of_javascript_serves(namespace: Namespace) {
    let program = Program::file(&namespace, &home::part(JAVASCRIPT));
    let image = image::import(&namespace, "javascript", |image| image.layer(program.layer("web.wasm"))).name;
    namespace.prewasi("precompile", &[&image]).success();
    let address = format!("127.0.0.1:{}", http::free_port());
    let mut container = server(&namespace, &image, &address).create().await;
    container.start().await;
    listens(&address).await;
    assert_eq!(namespace.daemon().journal().compiles(&program.digest).len(), 1);
    assert_eq!(says(&address, "/").await, ok("hello from JavaScript\n"));
    assert_eq!(says(&address, "/count").await, ok("1\n"));
    assert_eq!(says(&address, "/count").await, ok("1\n"));
    assert_eq!(says(&address, "/no-such").await.0, 404);
    let body = "text ".repeat(20_000);
    let echo = http::ask(&address, "/echo", body.as_bytes()).await.expect("an answer");
    assert_eq!(echo.status, 200, "{}", container.stderr());
    assert_eq!(echo.headers["x-length"], "100000");
    assert!(echo.body == body.as_bytes(), "{} bytes came back", echo.body.len());
    assert_eq!(says(&address, "/print").await, ok("printed\n"));
    assert_eq!(container.stdout(), "a line of output\n");
    assert!(container.stderr().contains("a line of errors\n"), "{}", container.stderr());
    let (other, its_address) = serve(&namespace, "").await;
    assert_eq!(says(&address, &format!("/fetch/{its_address}/env/PREWASI_HTTP_ADDRESS")).await, ok(&its_address));
    other.end().await;
    assert_eq!(says(&address, "/throw").await.0, 500);
    assert!(container.stderr().contains("on purpose"), "{}", container.stderr());
    assert_eq!(says(&address, "/").await, ok("hello from JavaScript\n"));
    container.end().await;

    // This component answers one request only. An instance that is asked again, and gives no answer, is not kept.
    let address = format!("127.0.0.1:{}", http::free_port());
    let options = "http_instance_requests = 5\nhttp_concurrency = 1";
    let mut container = server(&namespace, &image, &address).options(options).create().await;
    container.start().await;
    listens(&address).await;
    let statuses = [says(&address, "/").await.0, says(&address, "/").await.0];
    assert_eq!(statuses, [500, 200], "{}", container.stderr());
    assert!(container.stderr().contains("the guest gave no answer"), "{}", container.stderr());
    container.end().await;
}

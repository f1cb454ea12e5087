//! How programs find hosts by their names: in the container's `/etc/hosts` and by its name servers. Also that a program's process loads no
//! file of its image, not even from the folders where the C library looks.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use prewasi_test::dns::{Answer, Server};
use prewasi_test::guests::{NETWORK, WEB, WEB3};
use prewasi_test::image::{self, Program, files};
use prewasi_test::trial::Case;
use prewasi_test::{Container, Exited, Namespace, case, eventually, http};
use serde_json::json;
use simple_dns::RCODE;

mod hostile;
mod imports;

pub(crate) use imports::trials;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(names_are_found),
        case!(names_without_servers),
        case!(look_up_ends_with_the_guest),
        case!(servers_look_names_up),
    ];
    cases.extend(hostile::cases());
    cases
}

const LIMIT: Duration = Duration::from_secs(20);

/// Returns the namespaces of a container that has the node's network, where the tests' servers are.
fn node_network() -> serde_json::Value {
    json!({ "linux": { "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}] } })
}

/// Imports an image with a program, and with the hosts and name servers of its container.
fn program(namespace: &Namespace, guest: &str, hosts: &str, servers: &str) -> String {
    let program = Program::guest(namespace, guest);
    let known = files(&[("/etc/hosts", hosts.as_bytes(), 0o644), ("/etc/resolv.conf", servers.as_bytes(), 0o644)]);
    image::import(namespace, "names", |image| image.layer(program.layer("names.wasm")).layer(known)).name
}

/// Lets a component look names up.
async fn look_up(namespace: &Namespace, image: &str, names: &[&str]) -> Exited {
    namespace.container(image).change(node_network()).args(names).run().await
}

fn addresses(texts: &[&str]) -> Answer {
    Answer::Addresses(texts.iter().map(|text| text.parse().expect("it is an address")).collect())
}

/// Names are looked up in the container's file of hosts, then by its name server. The lookup uses the search domains, and TCP for long
/// answers; addresses are their own names. A missing name, a server that fails or refuses, and a malformed name have WASI's error codes for
/// it (18, 19, 20, 3).
async fn names_are_found(namespace: Namespace) {
    let many: Vec<IpAddr> = (0..60).map(|number| IpAddr::from([10, 9, 9, number])).collect();
    let server = Server::start(&[
        ("host.example", addresses(&["10.1.1.1"])),
        ("six.example", addresses(&["fd00::6"])),
        ("short.b.example", addresses(&["10.1.1.2"])),
        ("long.example", Answer::Addresses(many.clone())),
        ("known", addresses(&["10.1.1.9"])),
        ("fails.example", Answer::Code(RCODE::ServerFailure)),
        ("refused.example", Answer::Code(RCODE::Refused)),
    ]);
    let servers = server.resolv_conf("search a.example b.example\noptions timeout:2 attempts:1\n");
    let image = program(&namespace, NETWORK, "10.2.2.1 other Known # first\nfd00::2 known\n", &servers);
    let names = [
        "known",
        "KNOWN.",
        "192.0.2.7",
        "::1",
        "host.example",
        "six.example",
        "short",
        "missing.example",
        "fails.example",
        "refused.example.",
        "no..name",
        "localhost",
    ];
    let exited = look_up(&namespace, &image, &names).await;
    let expected = "known 10.2.2.1 fd00::2\nKNOWN. 10.2.2.1 fd00::2\n192.0.2.7 192.0.2.7\n::1 ::1\nhost.example 10.1.1.1\n\
        six.example fd00::6\nshort 10.1.1.2\nmissing.example error 18\nfails.example error 19\nrefused.example. error 20\n\
        no..name error 3\nlocalhost 127.0.0.1 ::1\n";
    assert_eq!((exited.code, &*exited.stdout, &*exited.stderr), (0, expected, ""));
    let exited = look_up(&namespace, &image, &["long.example"]).await;
    let all: String = many.iter().map(|address| format!(" {address}")).collect();
    assert_eq!(exited.stdout, format!("long.example{all}\n"));
    let asked = server.asked();
    for asked_for in ["short.a.example over udp", "short.b.example over udp", "long.example over tcp"] {
        assert!(asked.iter().any(|asked| asked == asked_for), "{asked_for}: {asked:?}");
    }
    let never = |asked: &&String| ["known", "192", "localhost", "no."].iter().any(|name| asked.starts_with(name));
    assert_eq!(asked.iter().find(never), None);
}

/// Without a list of servers one on the machine itself is asked; where there is none, that is a failure for the time being (19). A list
/// that is no file is one for good (20), and both are told at once.
async fn names_without_servers(namespace: Namespace) {
    let program = Program::guest(&namespace, NETWORK);
    let image = image::import(&namespace, "bare", |image| image.layer(program.layer("names.wasm"))).name;
    let names = ["nowhere.example", "localhost", "10.0.0.1"];
    let exited = namespace.container(&image).args(&names).run().await;
    let expected = "nowhere.example error 19\nlocalhost 127.0.0.1 ::1\n10.0.0.1 10.0.0.1\n";
    assert_eq!((exited.code, &*exited.stdout), (0, expected), "{}", exited.stderr);
    for path in ["/etc/hosts", "/etc/resolv.conf"] {
        let device = json!({ "destination": path, "type": "bind", "source": "/dev/zero", "options": ["bind", "ro"] });
        let exited = namespace.container(&image).mount(device).args(&names[..1]).run().await;
        assert_eq!((exited.code, &*exited.stdout), (0, "nowhere.example error 20\n"), "{}", exited.stderr);
    }
    let exited = namespace.container(&image).options("network = \"none\"").args(&names).run().await;
    let expected = "nowhere.example error 20\nlocalhost error 20\n10.0.0.1 error 20\n";
    assert_eq!((exited.code, &*exited.stdout), (0, expected), "{}", exited.stderr);
}

/// A look-up that nobody answers does not outlast the guest's own time.
async fn look_up_ends_with_the_guest(namespace: Namespace) {
    let server = Server::start(&[("silent.example", Answer::Silence)]);
    let image = program(&namespace, NETWORK, "", &server.resolv_conf("options timeout:30 attempts:5\n"));
    let begun = Instant::now();
    let container = namespace.container(&image).change(node_network()).options("timeout = \"2s\"");
    let exited = container.args(&["silent.example"]).run().await;
    assert_eq!(exited.code, 134, "{}", exited.stderr);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_eq!(server.asked(), ["silent.example over udp"]);
}

async fn serve(namespace: &Namespace, image: &str) -> (Container, String) {
    let address = format!("127.0.0.1:{}", http::free_port());
    let env = format!("PREWASI_HTTP_ADDRESS={address}");
    let mut container = namespace.container(image).change(node_network()).env(&env).create().await;
    container.start().await;
    eventually("a server", LIMIT, async || http::ask(&address, "/", b"").await.map(drop)).await;
    (container, address)
}

async fn says(address: &str, path: &str) -> String {
    let answer = http::ask(address, path, b"").await.unwrap_or_else(|error| panic!("{path}: {error}"));
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// A component that serves reaches others by their names, in the file of hosts and by the name server. It gets an error for names that do
/// not exist (1: DNS error). A component of preview 3 looks names up.
async fn servers_look_names_up(namespace: Namespace) {
    let server = Server::start(&[
        ("me.example", addresses(&["127.0.0.1"])),
        ("fails.example", Answer::Code(RCODE::ServerFailure)),
    ]);
    let servers = server.resolv_conf("search example\noptions attempts:1\n");
    let image = program(&namespace, WEB, "127.0.0.1 self\n", &servers);
    let (container, address) = serve(&namespace, &image).await;
    let port = address.rsplit(':').next().expect("it has a port");
    for name in ["self", "me.example", "me"] {
        let said = says(&address, &format!("/fetch/http/{name}:{port}/no-such")).await;
        assert!(said.starts_with("status 404\n"), "{name}: {said}");
    }
    for name in ["missing.example", "fails.example"] {
        assert_eq!(says(&address, &format!("/fetch/http/{name}:{port}/")).await, "error 1\n", "{name}");
    }
    container.end().await;

    let image = program(&namespace, WEB3, "10.2.2.1 known\n10.2.2.2 known\n", &servers);
    let (container, address) = serve(&namespace, &image).await;
    for (name, expected) in [
        ("known", "2 10.2.2.1\n"),
        ("me", "1 127.0.0.1\n"),
        ("missing.example", "error 2\n"),
        ("fails.example", "error 3\n"),
        ("no..name", "error 1\n"),
    ] {
        assert_eq!(says(&address, &format!("/lookup/{name}")).await, expected, "{name}");
    }
    container.end().await;
}

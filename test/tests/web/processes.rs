//! Servers have a process for each core.

use std::collections::BTreeSet;
use std::path::Path;

use prewasi_test::guests::WEB;
use prewasi_test::http::{self, Connection};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::attributes;

use super::{LIMIT, connections_to_one_process, cores, listens, ok, says, serve, server, web};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(each_core_has_one),
        case!(all_show_the_program),
        case!(limits_are_those_of_all),
        case!(random_numbers_differ),
        case!(process_that_is_killed_ends_the_container),
        case!(processes_end_with_the_first_one),
    ]
}

/// Besides the container's process there are as many processes as cores. They share the connections, and all are gone after the container's
/// end.
async fn each_core_has_one(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_instance_requests = 1000").await;
    let processes = container.pids().await.expect("they are listed");
    assert_eq!(processes.len(), 1 + cores());
    let mut counts = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..cores() {
        let mut connection = Connection::open(&address).await.expect("a connection");
        counts.push(connection.ask("/count", b"").await.expect("an answer").body);
        connections.push(connection);
    }
    // Each process has an instance of its own, which counts its requests; one got a request before, to see that the server is there.
    counts.sort_unstable();
    let expected: Vec<&[u8]> = (1..cores()).map(|_| &b"1\n"[..]).chain([&b"2\n"[..]]).collect();
    assert_eq!(counts, expected);
    container.end().await;
    for process in processes {
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "{process:?}");
    }
}

/// Each of them shows the name, the arguments and the environment of the program, and can be looked into by nobody in the container.
async fn all_show_the_program(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    let processes = container.pids().await.expect("they are listed");
    assert_eq!(processes.len(), 1 + cores());
    for process in processes {
        let shown = attributes::shown(process.pid);
        assert_eq!((&*shown.name, shown.args), ("web.wasm", vec!["web.wasm".to_owned()]));
        assert!(shown.env.contains(&format!("PREWASI_HTTP_ADDRESS={address}")), "{:?}", shown.env);
        assert!(!shown.env.iter().any(|variable| variable.starts_with("PREWASI_RUNTIME_DIR")), "{:?}", shown.env);
        let metadata = std::fs::metadata(format!("/proc/{}/environ", process.pid)).expect("it runs");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 0);
    }
    container.end().await;
}

/// A request waits for its turn although its own process has nothing to do, for there are as many as may be in another one.
async fn limits_are_those_of_all(namespace: Namespace) {
    let (container, address) = serve(&namespace, "http_concurrency = 2").await;
    let connections = connections_to_one_process::<2>(&address, cores().min(2)).await;
    let mut idle = Connection::open(&address).await.expect("a connection");
    let begun: Vec<_> = connections
        .into_iter()
        .map(|mut busy| tokio::spawn(async move { busy.ask("/sleep/1500", b"").await.expect("an answer").status }))
        .collect();
    http::requests_are_read(&address, 2).await;
    assert_eq!(idle.ask("/", b"").await.expect("an answer").status, 200);
    assert!(begun.iter().any(tokio::task::JoinHandle::is_finished), "it did not wait");
    for begun in begun {
        assert_eq!(begun.await.expect("the task ends"), 200);
    }
    container.end().await;
}

/// No guest is given random numbers that one in another process gets, too.
async fn random_numbers_differ(namespace: Namespace) {
    let (container, address) = serve(&namespace, "").await;
    let mut numbers = BTreeSet::new();
    for _ in 0..8 {
        let (status, number) = says(&address, "/random").await;
        assert_eq!(status, 200);
        assert!(numbers.insert(number.clone()), "{number} came twice");
    }
    container.end().await;
}

/// If a process is killed (for want of memory, say), the container ends as that process did.
async fn process_that_is_killed_ends_the_container(namespace: Namespace) {
    let (mut container, _) = serve(&namespace, "").await;
    let processes = container.pids().await.expect("they are listed");
    let other = processes.iter().find(|process| process.pid != container.pid()).expect("there is another one");
    let other = Pid::from_raw(i32::try_from(other.pid).expect("it is a pid")).expect("it is not 0");
    kill_process(other, Signal::KILL).expect("it runs");
    assert_eq!(container.wait().await, 137);
    assert!(container.stderr().contains("error: a process of the server is gone"), "{}", container.stderr());
    container.delete().await;
}

/// If the first process is killed, the others end as well, also where they are not in a namespace that ends with it.
async fn processes_end_with_the_first_one(namespace: Namespace) {
    let (image, address) = (web(&namespace, WEB), format!("127.0.0.1:{}", http::free_port()));
    let namespaces = json!([{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    let nodes = json!({ "linux": { "namespaces": namespaces } });
    let mut container = server(&namespace, &image, &address).change(nodes).create().await;
    container.start().await;
    listens(&address).await;
    assert_eq!(says(&address, "/").await, ok("hello\n"));
    let processes = container.pids().await.expect("they are listed");
    container.kill(Signal::KILL).await.expect("it runs");
    assert_eq!(container.wait().await, 137);
    for process in processes {
        eventually("the end of the process", LIMIT, async || {
            let there = Path::new(&format!("/proc/{}", process.pid)).exists();
            if there { Err(format!("{process:?}")) } else { Ok(()) }
        })
        .await;
    }
    container.delete().await;
}

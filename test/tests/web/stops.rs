//! The signals that stop a server.

use prewasi_test::guests::WEB;
use prewasi_test::image::{self, Imported, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, http};
use rustix::process::Signal;

use super::{listens, server};

pub(super) fn cases() -> Vec<Case> {
    vec![case!(other_signals_that_stop_finish_what_has_begun), case!(other_signals_cut_off)]
}

/// Imports a server, whose image names the signal that stops it.
fn web(namespace: &Namespace, stop: &str) -> Imported {
    let program = Program::guest(namespace, WEB);
    let name = format!("web{}", stop.to_lowercase().replace('+', "-"));
    image::import(namespace, &name, |image| {
        let image = image.layer(program.layer("web.wasm"));
        if stop.is_empty() { image } else { image.stop_signal(stop) }
    })
}

/// Sends a signal while a request is being answered; returns how the container ends, and whether there was an answer.
async fn signalled(namespace: &Namespace, image: &Imported, signal: i32, all: bool) -> (u32, bool) {
    let address = format!("127.0.0.1:{}", http::free_port());
    let mut container = server(namespace, &image.name, &address).create().await;
    container.start().await;
    listens(&address).await;
    let begun = {
        let address = address.clone();
        tokio::spawn(async move { http::ask(&address, "/sleep/1000", b"").await })
    };
    http::requests_are_read(&address, 1).await;
    container.kill_with(signal.cast_unsigned(), all).await.expect("it runs");
    let answer = begun.await.expect("the task ends");
    let code = container.wait().await;
    container.delete().await;
    (code, answer.is_ok_and(|answer| answer.body == b"slept\n"))
}

/// SIGINT, SIGQUIT and the signal that the image names stop a server as SIGTERM does. It finishes current requests, and then the container
/// ends with 0. The same holds if every process of it gets the signal, as from a terminal.
async fn other_signals_that_stop_finish_what_has_begun(namespace: Namespace) {
    for (stop, signal) in [
        ("", Signal::INT.as_raw()),
        ("", Signal::QUIT.as_raw()),
        ("SIGUSR1", Signal::USR1.as_raw()),
        ("SIGWINCH", Signal::WINCH.as_raw()),
        ("SIGRTMIN+3", 37),
    ] {
        let image = web(&namespace, stop);
        for all in [false, true] {
            assert_eq!(signalled(&namespace, &image, signal, all).await, (0, true), "{stop} {signal} {all}");
        }
    }
}

/// Signals that nobody has named for stopping end a server at once, as before.
async fn other_signals_cut_off(namespace: Namespace) {
    for (stop, signal) in [("", Signal::HUP), ("", Signal::USR1), ("SIGUSR1", Signal::USR2)] {
        let (code, image) = (128 + signal.as_raw().cast_unsigned(), web(&namespace, stop));
        assert_eq!(signalled(&namespace, &image, signal.as_raw(), false).await, (code, false), "{stop} {signal:?}");
    }
}

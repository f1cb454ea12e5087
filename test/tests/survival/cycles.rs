//! Many lives of containers, with daemons that are killed anywhere in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prewasi_test::guests::DEMO;
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case, eventually, leaks};
use rustix::process::{Pid, Signal, kill_process};

use super::own;

pub(super) fn cases() -> Vec<Case> {
    vec![case!(two_hundred_cycles_with_killed_daemons_leave_nothing)]
}

const CYCLES: usize = 200;
/// How many containers live at the same time.
const LANES: usize = 8;
/// Sets the seed, to repeat a run.
const SEED: &str = "PREWASI_TEST_SEED";

/// A small generator of numbers that look random (`splitmix64`).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// After two hundred lives of containers, in which daemons are killed at random moments, no process, mount, cgroup, bundle or
/// socket is left.
async fn two_hundred_cycles_with_killed_daemons_leave_nothing(namespace: Namespace) {
    let namespace = own(&namespace).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos();
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(now as u64);
    eprintln!("seed of the cycles: {SEED}={seed}");
    let program = Program::guest(&namespace, DEMO);
    let image = image::import(&namespace, "cycles", |image| image.layer(program.layer("demo.wasm")));
    // Compiled once, before anything is killed.
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..LANES {
        let (namespace, image) = (namespace.clone(), image.name.clone());
        let mut random = Random(seed ^ (lane as u64) << 32);
        lanes.spawn(async move {
            for _ in 0..CYCLES / LANES {
                cycle(&namespace, &image, &mut random).await;
            }
        });
    }
    let mut random = Random(!seed);
    let killer = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50 + random.below(400))).await;
            let daemons = leaks::daemons(&namespace);
            if let Some(pid) = (!daemons.is_empty()).then(|| daemons[random.below(daemons.len() as u64) as usize]) {
                // It may end by itself first.
                let _ = kill_process(Pid::from_raw(pid.cast_signed()).expect("an id"), Signal::KILL);
            }
        }
    };
    tokio::select! {
        () = killer => {}
        _ = lanes.join_all() => {}
    }
    // containerd does not tell of every daemon that dies; the next start sweeps sockets.
    assert_eq!(namespace.container(&image.name).args(&["exit", "0"]).run().await.code, 0);
    namespace.clear().await;
    namespace.assert_clean().await;
    eventually("nothing, on the whole machine", Duration::from_secs(20), async || {
        let left = leaks::of_daemon(namespace.daemon());
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
    .await;
}

/// One life: created, perhaps started, perhaps ended, deleted. Every step may fail, because the daemon is killed.
async fn cycle(namespace: &Namespace, image: &str, random: &mut Random) {
    let Ok(mut container) = namespace.container(image).args(&["sleep", "600"]).try_create().await else { return };
    let steps = async {
        if random.below(4) > 0 && container.try_start().await.is_ok() {
            if random.below(2) == 0
                && let Ok(mut process) = container.exec(&["demo.wasm", "sleep", "600"]).try_create().await
            {
                let _ = process.try_start().await;
            }
            let _ = container.kill_with(9, random.below(2) == 0).await;
        }
    };
    // A call to a daemon that is killed on the way is answered when containerd has noticed.
    let _ = tokio::time::timeout(Duration::from_secs(10), steps).await;
    container.try_delete().await;
}

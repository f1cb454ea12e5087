use super::super::Needs;
use super::super::calls::allowed;
use super::*;

const ALL: Needs = Needs { network: true, processes: true };
const OWN_NUMBER: u32 = 7;
const LEAST: Needs = Needs { network: false, processes: false };

/// Evaluates a filter like the kernel.
fn answer_of(filter: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = filter[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match u32::from(code) {
            LOAD => {
                value = match k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    offset => arguments[((offset - ARGUMENTS) / 8) as usize],
                }
            }
            RETURN => return k,
            IF_EQUAL => at += branch(value == k),
            IF_AT_LEAST => at += branch(value >= k),
            JUMP => at += k as usize,
            AND => value &= k,
            other => panic!("step {at} is {other:#x}"),
        }
    }
}

fn asked(needs: Needs, number: libc::c_long, arguments: [u32; 6]) -> u32 {
    let number = u32::try_from(number).unwrap();
    answer_of(&write(&allowed(needs), OWN_NUMBER), OWN_ARCHITECTURE, number, arguments)
}

/// Each number has the answer of the list, with any neighbours in the tree.
#[test]
fn each_number_has_its_answer() {
    for needs in [ALL, LEAST, Needs { network: true, ..LEAST }] {
        let calls = allowed(needs);
        let filter = write(&calls, OWN);
        for number in (0..1024).chain([u32::MAX, 0x4000_0000, 0x4000_0027]) {
            let call = calls.iter().find(|call| call.number == i64::from(number));
            let expected = match call {
                None => UNKNOWN,
                Some(call) if call.checks.is_empty() => libc::SECCOMP_RET_ALLOW,
                Some(call) => {
                    // The first values are allowed, and a value outside of them is not.
                    let mut arguments = [0; 6];
                    for check in call.checks {
                        arguments[check.argument as usize] = check.values[0];
                    }
                    assert_eq!(answer_of(&filter, OWN_ARCHITECTURE, number, arguments), libc::SECCOMP_RET_ALLOW);
                    arguments[call.checks[0].argument as usize] = u32::MAX - 1;
                    assert_eq!(answer_of(&filter, OWN_ARCHITECTURE, number, arguments), REFUSED, "{number}");
                    continue;
                }
            };
            assert_eq!(answer_of(&filter, OWN_ARCHITECTURE, number, [0; 6]), expected, "{number}");
        }
    }
}

/// A call of another architecture, where numbers mean other calls, ends the process.
#[test]
fn other_architectures_end_the_process() {
    const X86: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    let filter = write(&allowed(ALL), OWN_NUMBER);
    for architecture in [X86, ARM, 0] {
        for number in 0..600 {
            assert_eq!(answer_of(&filter, architecture, number, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}

/// No call makes memory executable; all other uses of memory are allowed.
#[test]
fn memory_is_not_executable() {
    for protection in 0..16 {
        let expected = if protection & libc::PROT_EXEC == 0 { libc::SECCOMP_RET_ALLOW } else { REFUSED };
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(asked(ALL, call, [0, 4096, protection as u32, 0, 0, 0]), expected, "{protection}");
        }
    }
    for call in [libc::SYS_pkey_mprotect, libc::SYS_memfd_create, libc::SYS_remap_file_pages, libc::SYS_shmat] {
        assert_eq!(asked(ALL, call, [0; 6]), UNKNOWN);
    }
}

/// A guest has threads; a server has processes as well; neither can make namespaces.
#[test]
fn threads_processes_and_namespaces() {
    // The C library's flags for a thread.
    const NEW_THREAD: u32 = 0x003d_0f00;
    const FORK: u32 = 0x0120_0011;
    let clone = |needs, flags| asked(needs, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
    assert_eq!(clone(LEAST, NEW_THREAD), libc::SECCOMP_RET_ALLOW);
    assert_eq!(clone(LEAST, FORK), REFUSED);
    assert_eq!(clone(ALL, FORK), libc::SECCOMP_RET_ALLOW);
    for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
        for flags in [NEW_THREAD, FORK] {
            assert_eq!(clone(ALL, flags | namespace as u32), REFUSED);
            assert_eq!(clone(LEAST, flags | namespace as u32), REFUSED);
        }
    }
    assert_eq!(asked(ALL, libc::SYS_clone3, [0; 6]), UNKNOWN);
}

/// A guest can signal only itself; a server's workers can each signal only themselves.
#[test]
fn signals() {
    for (needs, process, expected) in [
        (LEAST, OWN_NUMBER, libc::SECCOMP_RET_ALLOW),
        (LEAST, OWN_NUMBER + 1, REFUSED),
        (ALL, OWN_NUMBER + 1, libc::SECCOMP_RET_ALLOW),
    ] {
        assert_eq!(asked(needs, libc::SYS_tgkill, [process, 1, 6, 0, 0, 0]), expected);
    }
    assert_eq!(asked(ALL, libc::SYS_kill, [OWN_NUMBER, 6, 0, 0, 0, 0]), UNKNOWN);
}

/// Only TCP and UDP sockets are allowed, and only with a network.
#[test]
fn sockets() {
    let socket = |needs, family: i32, kind: i32, protocol: i32| {
        asked(needs, libc::SYS_socket, [family as u32, kind as u32, protocol as u32, 0, 0, 0])
    };
    let stream = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    for family in [libc::AF_INET, libc::AF_INET6] {
        assert_eq!(socket(ALL, family, stream, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(socket(ALL, family, libc::SOCK_DGRAM, libc::IPPROTO_UDP), libc::SECCOMP_RET_ALLOW);
        assert_eq!(socket(ALL, family, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), REFUSED);
        assert_eq!(socket(ALL, family, libc::SOCK_RAW, libc::IPPROTO_TCP), REFUSED);
        assert_eq!(socket(LEAST, family, stream, 0), UNKNOWN);
    }
    for family in [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
        assert_eq!(socket(ALL, family, libc::SOCK_STREAM, 0), REFUSED, "{family}");
    }
}

/// A list that is too long for plain branches is evaluated to its end.
#[test]
fn far_answers_are_reached() {
    let checks: &[Check] = &[Check { argument: 5, mask: u32::MAX, values: &[1] }];
    let calls = (0..500).map(|half| {
        let checks = if half % 50 == 0 { checks } else { &[] };
        Call { name: "", number: half * 2, checks }
    });
    let filter = write(&calls.collect::<Vec<_>>(), OWN_NUMBER);
    for number in 0..1100 {
        let answers = [0, 1].map(|last| answer_of(&filter, OWN_ARCHITECTURE, number, [0, 0, 0, 0, 0, last]));
        let expected = match number {
            number if number >= 1000 || number % 2 == 1 => [UNKNOWN; 2],
            number if number % 100 == 0 => [REFUSED, libc::SECCOMP_RET_ALLOW],
            _ => [libc::SECCOMP_RET_ALLOW; 2],
        };
        assert_eq!(answers, expected, "{number}");
    }
}

/// The filter is short enough to be cheap.
#[test]
fn filter_is_short() {
    let filter = write(&allowed(ALL), OWN_NUMBER);
    assert!(filter.len() < 200, "{} steps", filter.len());
}

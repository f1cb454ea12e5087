//! Cases of WASI preview 1, each in a container of its own with every engine. They are the checks of the public test suite of WASI, under
//! the same names. The programs are in `test/guests/wasi`.

use prewasi_test::guests::WASI;
use prewasi_test::image::{self, Program};
use prewasi_test::trial::Case;
use prewasi_test::{Namespace, case};

/// Runs one case.
async fn passes(namespace: Namespace, name: &str) {
    let program = Program::guest(&namespace, WASI);
    let image = image::import(&namespace, "wasi", |image| image.layer(program.layer("wasi.wasm")));
    let args = if name == "args_get" { &[name, "one", "two words", ""][..] } else { &[name] };
    let exited = namespace.container(&image.name).args(args).env("SUITE=a=b c").env("EMPTY=").run().await;
    assert_eq!((exited.code, &*exited.stderr), (0, ""), "{name}");
    if name == "fd_write_to_stdout" {
        assert_eq!(exited.stdout, "one two\n");
    }
}

/// Makes a case of each name.
macro_rules! suite {
    ($($name:ident)+) => {
        $(async fn $name(namespace: Namespace) {
            passes(namespace, stringify!($name)).await;
        })+

        pub(crate) fn cases() -> Vec<Case> {
            vec![$(case!($name)),+]
        }
    };
}

suite! {
    args_get environ_get clock_getres clock_time_get random_get sched_yield stdio fd_write_to_stdout fd_write_to_invalid_fd
    poll_oneoff_clock poll_oneoff_stdio sock_shutdown_invalid_fd sock_shutdown_not_sock
    file_seek_tell file_pread_pwrite file_truncation file_unbuffered_write fd_advise fd_filestat_set fd_flags_set
    pwrite_with_append directory_seek dir_fd_op_failures file_allocate fd_fdstat_set_rights truncation_rights fstflags_validate isatty
    path_open_nonblock fd_readdir renumber close_preopen overwrite_preopen dangling_fd
    fopen_with_access fopen_with_no_access fdopendir_with_access lseek stat_dev_ino
    path_open_missing path_open_create_existing path_open_dirfd_not_dir path_open_read_write path_open_preopen path_exists
    path_filestat interesting_paths symlink_create symlink_filestat symlink_loop dangling_symlink nofollow_errors readlink
    path_link path_rename path_rename_dir_trailing_slashes path_symlink_trailing_slashes unlink_file_trailing_slashes
    remove_directory_trailing_slashes remove_nonempty_directory
}

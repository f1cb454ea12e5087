/*
 * A library that no program of ours may load. Whatever it is called, it leaves a file in the root of whoever loads it, and says so on
 * standard error.
 */

#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void) {
    static const char message[] = "code of the image runs\n";
    int file = open("/loaded", O_WRONLY | O_CREAT, 0644);
    if (file >= 0) {
        close(file);
    }
    if (write(2, message, sizeof message - 1) < 0) {
        return;
    }
}

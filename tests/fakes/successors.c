/* Chains of processes: each starts the next one, in a session of its own, and ends.

   successors FILE CHAINS: each process writes one byte into FILE. TERM is ignored. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void succeed(int count) {
    for (;;) {
        if (fork() != 0) _exit(0);
        setsid();
        if (write(count, "x", 1) != 1) _exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int count = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0600);
    signal(SIGTERM, SIG_IGN);
    for (int chain = 0; chain < atoi(argv[2]); chain++)
        if (fork() == 0) succeed(count);
    for (;;) pause();
}

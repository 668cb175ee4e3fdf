/* The job whose first instruction is timed: `stamp FIFO WORD` writes "WORD NANOSECONDS\n" of CLOCK_MONOTONIC. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (argc != 3) return 2;
    char line[128];
    int length = snprintf(line, sizeof line, "%.64s %lld\n", argv[2], now.tv_sec * 1000000000LL + now.tv_nsec);
    int fifo = open(argv[1], O_WRONLY);
    return write(fifo, line, length) != length;
}

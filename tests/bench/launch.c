/* Runs a command and prints what it took, as one line of JSON: nanoseconds from fork to end and to the first byte of its
 * output, CPU microseconds, peak resident KiB, exit status, bytes of output.
 *
 * In C because of the memory: Linux counts into a child's peak what its parent had at the fork, and a Python parent
 * is larger than what is to be measured.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int out[2], status;
	if (argc < 2 || pipe(out)) {
		fprintf(stderr, "usage: launch COMMAND ARGUMENT...\n");
		return 2;
	}
	long long start = now(), first = 0, bytes = 0;
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* whoever gives up on us gives up on both */
		dup2(open("/dev/null", O_RDWR), 0);
		dup2(out[1], 1);
		close(out[0]);
		close(out[1]);
		execvp(argv[1], argv + 1);
		perror(argv[1]);
		_exit(127);
	}
	close(out[1]);
	char buffer[65536];
	for (ssize_t got; (got = read(out[0], buffer, sizeof buffer)) > 0; bytes += got)
		if (!first)
			first = now();
	struct rusage use;
	if (wait4(pid, &status, 0, &use) != pid)
		return 1;
	long long end = now();
	printf("{\"wall\": %lld, \"first\": %lld, \"cpu\": %lld, \"rss\": %ld, \"status\": %d, \"bytes\": %lld}\n", end - start,
	       first ? first - start : 0,
	       (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000ll + use.ru_utime.tv_usec + use.ru_stime.tv_usec,
	       use.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), bytes);
	return 0;
}

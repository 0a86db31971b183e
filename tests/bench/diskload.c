/* What the disk benchmark runs inside a Linux guest: diskload DEVICE
 *
 * O_DIRECT throughout, so that the guest's page cache has no part in it. It says "ready" and takes loads, "NAME COUNT", from its input until
 * that says "end". Each load is framed by "go NAME" and "done NAME"; who reads that takes the time. Depth by the kernel's own asynchronous I/O (io_submit), without a library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define MIB  (1 << 20)
#define PAGE 4096
#define DEEP 32

static int disk;
static uint64_t size, dice = 1;
static char *memory;

static void die(const char *what)
{
	printf("diskload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void mark(const char *word, const char *name)
{
	printf("%s %s\n", word, name);
	fflush(stdout);
	tcdrain(1); /* the line is out before the load begins */
}

static uint64_t somewhere(void)
{
	dice = dice * 6364136223846793005u + 1442695040888963407u;
	return (dice >> 33) % (size / PAGE) * PAGE;
}

static void sequential(const char *name, int writing, int count)
{
	mark("go", name);
	for (int i = 0; i < count; i++) {
		off_t at = (off_t)((uint64_t)i * MIB % (size / MIB * MIB));
		if ((writing ? pwrite(disk, memory, MIB, at) : pread(disk, memory, MIB, at)) != MIB)
			die(name);
	}
	mark("done", name);
}

static void one_by_one(const char *name, int count)
{
	mark("go", name);
	for (int i = 0; i < count; i++)
		if (pread(disk, memory, PAGE, (off_t)somewhere()) != PAGE)
			die(name);
	mark("done", name);
}

static void deep(const char *name, int count)
{
	aio_context_t context = 0;
	struct iocb blocks[DEEP], *again[DEEP];
	struct io_event events[DEEP];
	int started = 0, ended = 0;
	if (syscall(SYS_io_setup, DEEP, &context))
		die("io_setup");
	mark("go", name);
	for (int number = DEEP; ended < count; ended += number) {
		int fresh = 0;
		for (int i = 0; i < number && started < count; i++, started++) {
			struct iocb *block = ended == 0 ? &blocks[i] : (struct iocb *)(uintptr_t)events[i].obj;
			memset(block, 0, sizeof *block);
			block->aio_lio_opcode = IOCB_CMD_PREAD;
			block->aio_fildes = (uint32_t)disk;
			block->aio_buf = (uintptr_t)memory + (uint64_t)(block - blocks) * PAGE;
			block->aio_nbytes = PAGE;
			block->aio_offset = (int64_t)somewhere();
			again[fresh++] = block;
		}
		if (fresh && syscall(SYS_io_submit, context, fresh, again) != fresh)
			die("io_submit");
		number = (int)syscall(SYS_io_getevents, context, 1, DEEP, events, NULL);
		if (number < 1)
			die("io_getevents");
		for (int i = 0; i < number; i++)
			if (events[i].res != PAGE)
				die(name);
	}
	mark("done", name);
}

static void kept(const char *name, int count)
{
	mark("go", name);
	for (int i = 0; i < count; i++)
		if (pwrite(disk, memory, PAGE, (off_t)somewhere()) != PAGE || fdatasync(disk))
			die(name);
	mark("done", name);
}

int main(int argc, char **argv)
{
	char line[80], name[32];
	int count;
	if (argc != 2 || (disk = open(argv[1], O_RDWR | O_DIRECT)) < 0 || ioctl(disk, BLKGETSIZE64, &size))
		die("open");
	if (posix_memalign((void **)&memory, PAGE, MIB))
		die("memory");
	memset(memory, 0x5a, MIB);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) && sscanf(line, "%31s %d", name, &count) == 2) {
		if (!strcmp(name, "read-1M"))
			sequential(name, 0, count);
		else if (!strcmp(name, "write-1M"))
			sequential(name, 1, count);
		else if (!strcmp(name, "read-4K"))
			one_by_one(name, count);
		else if (!strcmp(name, "read-4K-deep"))
			deep(name, count);
		else if (!strcmp(name, "write-flush"))
			kept(name, count);
	}
	return 0;
}

/* The yardstick: the smallest C program that drives a flat guest through KVM_RUN.
 *
 * usage: bare IMAGE [real] loads IMAGE at 1 MiB as 32-bit code (real: at 0x7c00 as a boot sector), runs it until it writes
 *                          to port 0x604, prints the number of user-space exits, and from the first KVM_RUN to the
 *                          last the nanoseconds and those of them on a CPU.
 *
 * It does what a VMM cannot do without (KVM_RUN, look at exit_reason, answer reads with all-ones) and nothing else: no bus,
 * no devices. Irqchip and PIT are created as pyvmm does, so that the kernel's side of an exit is the same.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	const int real = argc == 3 && !strcmp(argv[2], "real");
	const size_t ram_size = 16 << 20, load = real ? 0x7c00 : 1 << 20;
	int kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0 || (argc != 2 && !real))
		die("open /dev/kvm");
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	uint64_t identity = 0xfffbc000;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	if (vm < 0 || ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) || ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000) ||
	    ioctl(vm, KVM_CREATE_IRQCHIP, 0) || ioctl(vm, KVM_CREATE_PIT2, &pit))
		die("create VM");
	uint8_t *ram = mmap(0, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int image = open(argv[1], O_RDONLY);
	if (image < 0 || read(image, ram + load, ram_size - load) <= 0)
		die(argv[1]);
	struct kvm_userspace_memory_region region = {.memory_size = ram_size, .userspace_addr = (uintptr_t)ram};
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		die("memory");
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_run *run = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = load, .rflags = 2};
	if (ioctl(vcpu, KVM_GET_SREGS, &s))
		die("sregs");
	struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_segment data = code;
	data.selector = 16;
	data.type = 3;
	if (real) {
		s.cs.base = s.cs.selector = 0;
	} else {
		s.cs = code;
		s.ds = s.es = s.fs = s.gs = s.ss = data;
		s.cr0 = 0x11;
	}
	if (ioctl(vcpu, KVM_SET_SREGS, &s) || ioctl(vcpu, KVM_SET_REGS, &r))
		die("registers");
	unsigned long exits = 0;
	uint64_t start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0))
			die("KVM_RUN");
		exits++;
		if (run->exit_reason == KVM_EXIT_IO) {
			uint8_t *bytes = (uint8_t *)run + run->io.data_offset;
			if (run->io.direction == KVM_EXIT_IO_IN)
				memset(bytes, 0xff, (size_t)run->io.size * run->io.count);
			else if (run->io.port == 0x604)
				break;
		} else if (run->exit_reason == KVM_EXIT_MMIO) {
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, 8);
		} else {
			fprintf(stderr, "exit reason %u\n", run->exit_reason);
			return 1;
		}
	}
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	printf("%lu %llu %llu\n", exits, (unsigned long long)(now(CLOCK_MONOTONIC) - start), (unsigned long long)cpu);
	return 0;
}

# Exercise 11.2: a kernel that prints its command line. ESI has the address of the zero page; at 0x228 in it is where the text is,
# which ends with a zero byte. The code may be loaded anywhere: no absolute addresses.
        .intel_syntax noprefix
        .code32
        .globl  start
start:
        .org    0x1f1
        .byte   1                       # setup_sects: the kernel begins at 2 * 512
        .org    0x1fe
        .word   0xaa55
        .byte   0xeb, 0x66              # jump: the header ends at 0x268
        .ascii  "HdrS"
        .word   0x20f                   # version 2.15
        .org    0x211
        .byte   1                       # loadflags: the kernel goes to 1 MiB
        .org    0x214
        .long   0x100000                # code32_start
        .org    0x22c
        .long   0x7fffffff              # initrd_addr_max
        .org    0x238
        .long   255                     # cmdline_size
        .org    0x258
        .quad   0x100000                # pref_address
        .long   0x10000                 # init_size

        .org    0x400                   # the kernel: 32-bit entry
        mov     dx, 0x3f8
        mov     al, 'K'
        out     dx, al
        mov     dx, 0x604               # power off
        mov     ax, 0x2000
        out     dx, ax
        hlt

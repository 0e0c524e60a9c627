# The guest in ring 0: plays the acts that ring.rs has written behind it, one after another, each so
# often as it says, and writes on the serial port how each went.
#
# It is entered in long mode at its first byte and runs where it was loaded, at 0x1000000. An exception
# ends the one time that an act was tried, and is counted; an interrupt is counted and acknowledged.
# Nothing is kept in registers over an act.

    .set CASE, 0x1004000          # what ring.rs has written: page tables, first act, number of acts
    .set ACT, 0x1004020           # the act that is played
    .set TIME, 0x1004028          # and how often it has been
    .set VECTOR, 0x1004030        # of the last exception, or -1
    .set INTERRUPTS, 0x1004038    # so far
    .set CONTROL, 0x1004040         # CR4 as it is to be
    .set TABLE, 0x1005000         # of interrupts, and its descriptor
    .set TABLE_AT, 0x1004050
    .set STACK, 0x90000

    .balign 16
caisson_ring_guest:
    cli
    cld
    mov rsp, STACK
    mov rax, cr4
    or rax, 0x608                 # SSE and its exceptions, debug registers for ports
    mov cr4, rax
    mov qword ptr [CONTROL], rax
    mov rax, qword ptr [CASE]
    mov cr3, rax
    mov rax, qword ptr [CASE + 8]
    mov qword ptr [ACT], rax
    mov qword ptr [VECTOR], -1

    # A gate for each vector, to one of the stubs, which are 16 bytes apart.
    lea rax, [rip + stubs]
    mov edi, TABLE
    mov ecx, 256
2:  mov word ptr [rdi], ax
    mov dword ptr [rdi + 2], 0x8e000010
    mov rdx, rax
    shr rdx, 16
    mov word ptr [rdi + 6], dx
    shr rdx, 16
    mov qword ptr [rdi + 8], rdx
    add rax, 16
    add rdi, 16
    dec ecx
    jnz 2b
    mov word ptr [TABLE_AT], 4095
    mov eax, TABLE
    mov qword ptr [TABLE_AT + 2], rax
    lidt [TABLE_AT]

next_act:
    mov rax, qword ptr [CASE + 16]
    test rax, rax
    jz finished
    dec rax
    mov qword ptr [CASE + 16], rax
    mov qword ptr [TIME], 0
    mov rax, qword ptr [CONTROL]
    mov cr4, rax
    lidt [TABLE_AT]
    xor eax, eax
    mov dr7, rax
once_more:
    cld
    mov rsp, STACK
    sti
    mov rbx, qword ptr [ACT]
    mov rcx, qword ptr [TIME]
    cmp rcx, qword ptr [rbx + 16]
    jae report
    mov rdi, qword ptr [rbx + 24]
    imul rdi, rcx
    add rdi, qword ptr [rbx + 8]
    mov rsi, qword ptr [rbx + 32]
    mov rdx, qword ptr [rbx + 40]
    inc rcx
    mov qword ptr [TIME], rcx
    mov eax, dword ptr [rbx]
    lea rcx, [rip + kinds]
    movsxd rax, dword ptr [rcx + rax * 4]
    add rax, rcx
    call rax
    mov rbx, qword ptr [ACT]
    mov qword ptr [rbx + 56], rax
    jmp once_more

# A line for the act: times that ended in an exception, the vector of the last, the last value, and
# interrupts. Whatever an act has done to the serial port is undone first.
report:
    xor eax, eax
    mov dx, 0x3fb
    out dx, al
    mov dx, 0x3fc
    out dx, al
    mov dx, 0x3f9
    out dx, al
    mov al, 'r'
    call put
    mov rbx, qword ptr [ACT]
    mov rdi, qword ptr [rbx + 48]
    call put_number
    mov rdi, qword ptr [VECTOR]
    call put_number
    mov rbx, qword ptr [ACT]
    mov rdi, qword ptr [rbx + 56]
    call put_number
    mov rdi, qword ptr [INTERRUPTS]
    call put_number
    mov al, 10
    call put
    mov qword ptr [VECTOR], -1
    mov rbx, qword ptr [ACT]
    add rbx, 64
    mov qword ptr [ACT], rbx
    jmp next_act

put:
    mov dx, 0x3f8
    out dx, al
    ret

# A blank and a hexadecimal number.
put_number:
    mov al, ' '
    call put
    mov ecx, 60
3:  mov rax, rdi
    shr rax, cl
    jnz 4f
    sub ecx, 4
    jg 3b
4:  mov rax, rdi
    shr rax, cl
    and eax, 15
    add al, '0'
    cmp al, '9'
    jbe 5f
    add al, 39
5:  call put
    sub ecx, 4
    jns 4b
    ret

finished:
    mov al, 'e'
    call put
    mov al, 10
    call put
6:  cli
    hlt
    jmp 6b

    .balign 16
stubs:
    .set vector, 0
    .rept 256
    .balign 16
    push vector
    jmp event
    .set vector, vector + 1
    .endr

event:
    cmp qword ptr [rsp], 32
    jae interrupt
    pop rax
    mov qword ptr [VECTOR], rax
    mov rbx, qword ptr [ACT]
    inc qword ptr [rbx + 48]
    jmp once_more

interrupt:
    mov qword ptr [rsp], rax
    push rcx
    push rdx
    inc qword ptr [INTERRUPTS]
    mov ecx, 0x1b
    rdmsr
    test eax, 0x800
    jz 8f
    test eax, 0x400
    jz 7f
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    jmp 8f
7:  mov ecx, 0xfee000b0
    mov dword ptr [rcx], 0
8:  pop rdx
    pop rcx
    pop rax
    iretq

# What there is to act with: rdi is counted up, rsi and rdx stay the same. The order is that of
# `Kind` in ring.rs.
    .balign 4
kinds:
    .long run - kinds
    .long read_register - kinds
    .long write_register - kinds
    .long set_register - kinds
    .long in_8 - kinds
    .long in_16 - kinds
    .long in_32 - kinds
    .long out_8 - kinds
    .long out_16 - kinds
    .long out_32 - kinds
    .long in_many_8 - kinds
    .long in_many_32 - kinds
    .long out_many_8 - kinds
    .long out_many_32 - kinds
    .long load_8 - kinds
    .long load_16 - kinds
    .long load_32 - kinds
    .long load_64 - kinds
    .long load_128 - kinds
    .long store_8 - kinds
    .long store_16 - kinds
    .long store_32 - kinds
    .long store_64 - kinds
    .long store_128 - kinds
    .long copy - kinds
    .long identify - kinds
    .long call_host - kinds
    .long call_host_amd - kinds
    .long leave_long_mode - kinds

run:                              # at rdx
    jmp rdx
read_register:                    # rdi
    mov ecx, edi
    rdmsr
    shl rdx, 32
    or rax, rdx
    ret
write_register:                   # rsi to rdi
    mov ecx, edi
    mov rax, rsi
    mov rdx, rsi
    shr rdx, 32
    wrmsr
    ret
set_register:                     # rdi to rdx
    mov ecx, edx
    mov rax, rdi
    mov rdx, rdi
    shr rdx, 32
    wrmsr
    ret
in_8:
    mov edx, edi
    xor eax, eax
    in al, dx
    ret
in_16:
    mov edx, edi
    xor eax, eax
    in ax, dx
    ret
in_32:
    mov edx, edi
    in eax, dx
    ret
out_8:
    mov edx, edi
    mov eax, esi
    out dx, al
    ret
out_16:
    mov edx, edi
    mov eax, esi
    out dx, ax
    ret
out_32:
    mov edx, edi
    mov eax, esi
    out dx, eax
    ret
in_many_8:                        # rsi of them, to rdx
    mov ecx, esi
    mov rsi, rdx
    mov edx, edi
    mov rdi, rsi
    rep insb
    ret
in_many_32:
    mov ecx, esi
    mov rsi, rdx
    mov edx, edi
    mov rdi, rsi
    rep insd
    ret
out_many_8:                       # rsi of them, from rdx
    mov ecx, esi
    mov rsi, rdx
    mov edx, edi
    rep outsb
    ret
out_many_32:
    mov ecx, esi
    mov rsi, rdx
    mov edx, edi
    rep outsd
    ret
load_8:
    movzx eax, byte ptr [rdi]
    ret
load_16:
    movzx eax, word ptr [rdi]
    ret
load_32:
    mov eax, dword ptr [rdi]
    ret
load_64:
    mov rax, qword ptr [rdi]
    ret
load_128:
    movups xmm0, xmmword ptr [rdi]
    ret
store_8:
    mov byte ptr [rdi], sil
    ret
store_16:
    mov word ptr [rdi], si
    ret
store_32:
    mov dword ptr [rdi], esi
    ret
store_64:
    mov qword ptr [rdi], rsi
    ret
store_128:
    push rsi
    push rsi
    movups xmm0, xmmword ptr [rsp]
    add rsp, 16
    movups xmmword ptr [rdi], xmm0
    ret
copy:                             # rsi bytes from rdx
    mov rcx, rsi
    mov rsi, rdx
    rep movsb
    ret
identify:                         # leaf rdi, rsi
    mov eax, edi
    mov ecx, esi
    cpuid
    ret
call_host:                        # number rdi, arguments rsi
    mov eax, edi
    mov rbx, rsi
    mov rcx, rsi
    mov rdx, rsi
    vmcall
    ret
call_host_amd:
    mov eax, edi
    mov rbx, rsi
    mov rcx, rsi
    mov rdx, rsi
    vmmcall
    ret

# Paging off, then protection, and not back.
leave_long_mode:
    cli
    lea rax, [rip + descriptors]
    mov qword ptr [TABLE_AT + 2], rax
    mov word ptr [TABLE_AT], 31
    lgdt [TABLE_AT]
    lea rax, [rip + 9f]
    push 8
    push rax
    retfq
    .code32
9:  mov eax, 0x10
    mov ds, eax
    mov ss, eax
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov eax, 0x5a
    mov dx, 0x80
    out dx, al
    mov eax, cr0
    and eax, 0xfffffffe
    mov cr0, eax
    mov al, 'm'
    mov dx, 0x3f8
    out dx, al
    mov al, 10
    out dx, al
10: jmp 10b
    .code64
    .balign 8
descriptors:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0
caisson_ring_guest_end:

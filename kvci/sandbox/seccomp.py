"""The system calls that a command in a sandbox may use.

The list follows the default profiles of Docker and Podman for a process with few capabilities, on
x86-64. It leaves out keys, namespaces, mounts, io_uring, bpf, userfaultfd and perf events. Docker
gets the same list, because the default profile of older engines allows io_uring.
"""

import errno
import json
import os
import tempfile
from functools import cache

from kvci.errors import UserError

ALLOWED = """
accept accept4 access alarm arch_prctl bind brk capget capset chdir chmod chown clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2
fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs
fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_mempolicy
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
llistxattr lremovexattr lseek lsetxattr lstat madvise mbind membarrier memfd_create mincore mkdir
mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall
munmap nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename
renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy
set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid
setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat
shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx
symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write writev
"""
UNSEEN_MEMORY = ("memfd_create", "shmget")
"""These calls make memory that no list of a process's mappings shows."""
SOCKET_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK. Others, such as AF_VSOCK, may leave the sandbox."""
NAMESPACES = 0x7E020000
"""The flags of clone(2) that make a namespace (CLONE_NEW*)."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""The execution domains of personality(2) that Docker allows, and the query."""


@cache
def program(unseen_memory: bool = True) -> bytes:
    """Return the filter as a BPF program, for bubblewrap's --seccomp.

    Without a cgroup, only kvci counts the memory of a sandbox; then `unseen_memory` must be false.

    Any other call fails with "Function not implemented", as on a kernel that lacks the call. So
    programs use what they use on an older kernel. Raises UserError without the library libseccomp.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"bubblewrap's system-call filter needs libseccomp ({error}); install libseccomp2 "
            "(Debian, Ubuntu) or libseccomp (Fedora)."
        ) from None
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in ALLOWED.split():
        if name in UNSEEN_MEMORY and not unseen_memory:
            continue
        try:
            call = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except ValueError:
            continue  # an older libseccomp; the call stays forbidden
        rules.add_rule(pyseccomp.ALLOW, call)
    one = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, NAMESPACES, 0)
    rules.add_rule(pyseccomp.ALLOW, "clone", one)
    for family in SOCKET_FAMILIES:
        rules.add_rule(pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    for domain in PERSONALITIES:
        rules.add_rule(pyseccomp.ALLOW, "personality", pyseccomp.Arg(0, pyseccomp.EQ, domain))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def docker_profile() -> str:
    """Return the filter as a seccomp profile for the Docker engine, in JSON."""

    def allow(names: list[str], **arguments: object) -> dict[str, object]:
        one = [{"index": 0, **arguments}] if arguments else []
        return {"names": names, "action": "SCMP_ACT_ALLOW", "args": one}

    rules = [allow(ALLOWED.split())]
    rules.append(allow(["clone"], op="SCMP_CMP_MASKED_EQ", value=NAMESPACES, valueTwo=0))
    rules += [allow(["socket"], op="SCMP_CMP_EQ", value=family) for family in SOCKET_FAMILIES]
    rules += [allow(["personality"], op="SCMP_CMP_EQ", value=one) for one in PERSONALITIES]
    # Engines before 23 do not know `defaultErrnoRet`, and glibc needs this answer.
    refused = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": errno.ENOSYS,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [*rules, refused],
        }
    )


def descriptor(unseen_memory: bool) -> int:
    """Return a new file descriptor of the filter. bubblewrap reads it to its end."""
    made = os.memfd_create("kvci-seccomp", os.MFD_CLOEXEC)
    os.write(made, program(unseen_memory))
    os.lseek(made, 0, os.SEEK_SET)
    return made

"""ptrace: system calls in another process's place (include/uapi/linux/ptrace.h; x86-64).

Only the thread that started a process may trace it here, and only while that process stands still at its exec.
"""

from __future__ import annotations

import ctypes
import os
import signal

from unnoticed.agents.kernel import libc

_TRACEME, _PEEKTEXT, _POKETEXT, _SINGLESTEP, _GETREGS, _SETREGS, _DETACH = 0, 1, 4, 9, 12, 13, 17
_SETOPTIONS, _EXITKILL = 0x4200, 1 << 20
_SYSCALL = 0x050F  # the instruction `syscall`, as the first two bytes of a word
_HIGHEST_ERROR = -4095  # include/linux/err.h: results from here to -1 are errors


class _Registers(ctypes.Structure):
    """struct user_regs_struct (arch/x86/include/asm/user_64.h)."""

    _fields_ = tuple(
        (name, ctypes.c_ulong)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
            *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    )


def trace_me() -> None:
    """Have this process stand still at its next exec, for its parent to look at; to be called between fork and exec."""
    libc.ptrace(_TRACEME, 0, 0, 0)


class StoppedProcess:
    """A child that called `trace_me` and stands still at its exec. It is killed if this process ends before `leave`."""

    def __init__(self, pid: int) -> None:
        """Wait for its exec. Raises ChildProcessError where it ended instead."""
        self._pid = pid
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise ChildProcessError(f"process {pid} ended before it began")
        libc.ptrace(_SETOPTIONS, pid, 0, _EXITKILL)

    def call(self, number: int, *arguments: int) -> int:
        """Have it make a system call of up to three arguments, and put everything back. Raises OSError."""
        before, registers = _Registers(), _Registers()
        libc.ptrace(_GETREGS, self._pid, 0, ctypes.addressof(before))
        ctypes.memmove(ctypes.addressof(registers), ctypes.addressof(before), ctypes.sizeof(before))
        word = libc.ptrace(_PEEKTEXT, self._pid, before.rip, 0)
        registers.rax = number
        registers.rdi, registers.rsi, registers.rdx = (*arguments, 0, 0, 0)[:3]
        try:
            libc.ptrace(_POKETEXT, self._pid, before.rip, word & ~0xFFFF | _SYSCALL)
            libc.ptrace(_SETREGS, self._pid, 0, ctypes.addressof(registers))
            libc.ptrace(_SINGLESTEP, self._pid, 0, 0)
            _, status = os.waitpid(self._pid, 0)
            if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
                raise ChildProcessError(f"process {self._pid} ended, or was sent a signal, as it began")
            libc.ptrace(_GETREGS, self._pid, 0, ctypes.addressof(registers))
        finally:
            libc.ptrace(_POKETEXT, self._pid, before.rip, word)
            libc.ptrace(_SETREGS, self._pid, 0, ctypes.addressof(before))
        result = ctypes.c_long(registers.rax).value
        if _HIGHEST_ERROR <= result < 0:
            raise OSError(-result, f"system call {number} in process {self._pid}: {os.strerror(-result)}")
        return result

    def leave(self) -> None:
        """Let it go its way, untraced."""
        libc.ptrace(_DETACH, self._pid, 0, 0)

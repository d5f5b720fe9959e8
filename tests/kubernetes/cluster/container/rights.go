// What a container's program may do: user, groups, capabilities, descriptors.
package main

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"tickgate/tests/kubernetes/spec"
)

// capabilities by number, the order of <linux/capability.h>.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// giveUpRights leaves exactly what the kubelet granted; nothing after it needs more. What is dropped here is out of reach
// of the program: root gets what is left of the bounding set when it executes, another user gets nothing.
func giveUpRights(granted *spec.Container) error {
	limit := unix.Rlimit{Cur: granted.OpenFilesMax, Max: granted.OpenFilesMax}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	for number, name := range capabilities {
		if slices.Contains(granted.Capabilities, name) {
			continue
		}
		// A kernel that does not know one of the newest has nothing to drop.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop %s: %w", name, err)
		}
	}
	if err := syscall.Setgroups(granted.Groups); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if err := syscall.Setgid(granted.Group); err != nil {
		return fmt.Errorf("group %d: %w", granted.Group, err)
	}
	if err := syscall.Setuid(granted.User); err != nil {
		return fmt.Errorf("user %d: %w", granted.User, err)
	}
	if granted.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	return nil
}

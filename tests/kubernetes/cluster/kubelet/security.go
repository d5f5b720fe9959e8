// Who a container runs as and what it may do, from the pod's and the container's security context.
package main

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"tickgate/tests/kubernetes/spec"
)

// runtimeCapabilities are those that container runtimes grant unless they are dropped.
var runtimeCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
	"SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// secure writes the rights into the specification; an error says why the container may not start.
func secure(pod *v1.Pod, container *v1.Container, image image, into *spec.Container) error {
	all := pod.Spec.SecurityContext
	if all == nil {
		all = &v1.PodSecurityContext{}
	}
	own := container.SecurityContext
	if own == nil {
		own = &v1.SecurityContext{}
	}
	into.User = int(first(own.RunAsUser, all.RunAsUser, int64(image.User)))
	into.Group = int(first(own.RunAsGroup, all.RunAsGroup, int64(image.Group)))
	if first(own.RunAsNonRoot, all.RunAsNonRoot, false) && into.User == 0 {
		return fmt.Errorf("container has runAsNonRoot and image will run as root")
	}
	for _, group := range all.SupplementalGroups {
		into.Groups = append(into.Groups, int(group))
	}
	if all.FSGroup != nil {
		into.Groups = append(into.Groups, int(*all.FSGroup))
	}
	if own.Privileged != nil && *own.Privileged {
		return fmt.Errorf("privileged containers are not supported")
	}
	into.ReadOnlyRoot = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
	into.NoNewPrivileges = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
	into.Capabilities = granted(own.Capabilities)
	return nil
}

func granted(asked *v1.Capabilities) []string {
	kept := slices.Clone(runtimeCapabilities)
	if asked == nil {
		return kept
	}
	for _, dropped := range asked.Drop {
		kept = slices.DeleteFunc(kept, func(name string) bool { return dropped == "ALL" || string(dropped) == name })
	}
	for _, added := range asked.Add {
		kept = append(kept, string(added))
	}
	return kept
}

// first is the container's value, else the pod's, else the image's.
func first[T any](own, all *T, image T) T {
	switch {
	case own != nil:
		return *own
	case all != nil:
		return *all
	}
	return image
}

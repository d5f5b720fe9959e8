// The root file system of a container: the image below, a layer of its own above, volumes, /proc and /dev.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tickgate/tests/kubernetes/spec"
)

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// enterRoot mounts everything and makes it the root of this process.
func enterRoot(container *spec.Container) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	root, err := mountLayers(container)
	if err != nil {
		return err
	}
	if err := mountSystem(root); err != nil {
		return err
	}
	for _, mount := range container.Mounts {
		if err := bind(mount.Source, filepath.Join(root, mount.Target), mount.ReadOnly); err != nil {
			return fmt.Errorf("mount %s: %w", mount.Target, err)
		}
	}
	if container.ReadOnlyRoot {
		// The volumes are mounts of their own and keep their mode.
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return changeRoot(root)
}

// mountLayers puts a layer for this container alone over the image. Mount points are made in it, also when the root
// is read-only for the program.
func mountLayers(container *spec.Container) (string, error) {
	upper, work, root := filepath.Join(container.Scratch, "upper"), filepath.Join(container.Scratch, "work"), filepath.Join(container.Scratch, "root")
	for _, folder := range []string{upper, work, root} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", container.Image, upper, work)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("overlay of %s: %w", container.Image, err)
	}
	return root, nil
}

func mountSystem(root string) error {
	for _, folder := range []string{"proc", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	dev := filepath.Join(root, "dev")
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	for _, name := range devices {
		if err := bind("/dev/"+name, filepath.Join(dev, name), false); err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	shm := filepath.Join(dev, "shm")
	if err := os.Mkdir(shm, 0o1777); err != nil {
		return err
	}
	return unix.Mount("tmpfs", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m")
}

// bind makes source appear at target, which is created as a folder or an empty file to match.
func bind(source, target string, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
			var file *os.File
			if file, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
				file.Close()
			}
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if readOnly {
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	return nil
}

func changeRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// The old root is stacked onto the new one and taken off at once: nothing of the node stays in reach.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	return os.Chdir("/")
}

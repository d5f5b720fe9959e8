// A pod's volumes: folders of this machine, filled before the first container starts and kept up to date while it runs.
package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// mountVolumes makes every volume, or says which one is not there yet. It may be called again and again.
func (w *worker) mountVolumes(ctx context.Context) error {
	for _, volume := range w.latest().Spec.Volumes {
		if err := w.mountVolume(ctx, &volume); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q: %w", volume.Name, err)
		}
	}
	return nil
}

func (w *worker) mountVolume(ctx context.Context, volume *v1.Volume) error {
	folder := w.volumeFolder(volume.Name)
	switch {
	case volume.EmptyDir != nil:
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o777); err != nil {
			return err
		}
		return w.own(folder, false)
	case volume.PersistentVolumeClaim != nil:
		path, err := w.claimed(ctx, volume.PersistentVolumeClaim.ClaimName)
		if err != nil {
			return err
		}
		w.setVolumePath(volume.Name, path)
		return w.own(path, volume.PersistentVolumeClaim.ReadOnly)
	}
	payload, err := w.payload(ctx, volume)
	if err != nil {
		return err
	}
	return w.write(folder, payload)
}

// write replaces the files of a volume at once, as the kubelet does: readers see all of the old or all of the new.
func (w *worker) write(folder string, payload map[string]volumeutil.FileProjection) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	// The pod may run as anybody: the folder's mode is that of the volume's files, not of the umask.
	if err := os.Chmod(folder, 0o777|os.ModeSticky); err != nil {
		return err
	}
	writer, err := volumeutil.NewAtomicWriter(folder, w.name())
	if err != nil {
		return err
	}
	return writer.Write(payload, func(subPath string) error { return w.own(filepath.Join(folder, subPath), true) })
}

// own gives a volume to the pod's fsGroup, if it has one.
func (w *worker) own(folder string, readOnly bool) error {
	context := w.latest().Spec.SecurityContext
	if context == nil || context.FSGroup == nil {
		return nil
	}
	mask := fs.FileMode(0o660)
	if readOnly {
		mask = 0o440
	}
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, int(*context.FSGroup)); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		wanted := info.Mode() | mask
		if info.IsDir() {
			wanted |= fs.ModeSetgid | 0o110
		}
		return os.Chmod(path, wanted)
	})
}

// claimed is the folder of the volume that a claim is bound to.
func (w *worker) claimed(ctx context.Context, name string) (string, error) {
	claim, err := w.client.CoreV1().PersistentVolumeClaims(w.latest().Namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return "", err
	}
	if claim.Status.Phase != v1.ClaimBound {
		return "", fmt.Errorf("the claim %s is %s", name, claim.Status.Phase)
	}
	bound, err := w.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, meta.GetOptions{})
	if err != nil {
		return "", err
	}
	if bound.Spec.Local == nil {
		return "", fmt.Errorf("the volume %s is not local", bound.Name)
	}
	return bound.Spec.Local.Path, nil
}

func (w *worker) volumeFolder(name string) string {
	return filepath.Join(w.folder, "volumes", name)
}

// volumePath is where a volume is, whatever its kind.
func (w *worker) volumePath(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if path, there := w.volumePaths[name]; there {
		return path
	}
	return w.volumeFolder(name)
}

func (w *worker) setVolumePath(name, path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.volumePaths[name] = path
}

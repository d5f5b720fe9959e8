// One start of a container: the process, its output, its end.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"tickgate/tests/kubernetes/spec"
)

// openFilesMax is what containerd gives by default; less where this machine allows less.
const openFilesMax = 1 << 20

type process struct {
	command     *exec.Cmd
	environment []string
	user, group int
	began       time.Time
	// done is closed when it has ended; code and ended are set by then.
	done  chan struct{}
	code  int
	ended time.Time
}

// launch starts the container's program for the nth time.
func (w *worker) launch(ctx context.Context, container *v1.Container, nth int32) (*process, error) {
	image, err := w.images.find(container.Image)
	if err != nil {
		return nil, &startError{"ErrImagePull", err}
	}
	specification, err := w.specify(ctx, container, image)
	if err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	specification.Scratch = filepath.Join(w.folder, "containers", fmt.Sprintf("%s-%d", container.Name, nth))
	if err := os.MkdirAll(specification.Scratch, 0o755); err != nil {
		return nil, err
	}
	text, err := json.Marshal(specification)
	if err != nil {
		return nil, err
	}
	file := specification.Scratch + ".json"
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	output, err := w.openLog(container.Name, nth)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.Command(w.settings.container, file)
	command.Stdout, command.Stderr = output, output
	command.Env = []string{}
	command.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	started := &process{
		command: command, environment: specification.Env, user: specification.User, group: specification.Group,
		began: time.Now(), done: make(chan struct{}),
	}
	go started.await(specification.Scratch)
	return started, nil
}

// startError is a failure before there was a process; its reason is what the container's status says.
type startError struct {
	reason string
	error
}

func (w *worker) specify(ctx context.Context, container *v1.Container, image image) (*spec.Container, error) {
	variables, err := w.environment(ctx, container)
	if err != nil {
		return nil, err
	}
	for _, line := range image.Env {
		name, value, _ := strings.Cut(line, "=")
		if _, there := variables[name]; !there {
			variables[name] = value
		}
	}
	pod := w.latest()
	variables["HOSTNAME"] = pod.Name
	var ownLimit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &ownLimit); err != nil {
		return nil, err
	}
	specification := &spec.Container{
		NetworkNamespace: w.link.namespace,
		Hostname:         pod.Name,
		Image:            image.Root,
		Args:             arguments(container, image, variables),
		Env:              lines(variables),
		Dir:              container.WorkingDir,
		OpenFilesMax:     min(openFilesMax, ownLimit.Max),
	}
	if len(specification.Args) == 0 {
		return nil, fmt.Errorf("no command specified")
	}
	if specification.Mounts, err = w.mounts(container, variables); err != nil {
		return nil, err
	}
	return specification, secure(pod, container, image, specification)
}

// arguments: the container's command replaces the image's entry point and command, its args the command alone.
func arguments(container *v1.Container, image image, variables map[string]string) []string {
	entrypoint, command := image.Entrypoint, image.Command
	expand := func(words []string) []string {
		expanded := []string{}
		for _, word := range words {
			expanded = append(expanded, expansion.Expand(word, expansion.MappingFuncFor(variables)))
		}
		return expanded
	}
	if len(container.Command) > 0 {
		entrypoint, command = expand(container.Command), nil
	}
	if len(container.Args) > 0 {
		command = expand(container.Args)
	}
	return slices.Concat(entrypoint, command)
}

// mounts are the files that every container has, and the volumes that it asks for, outer ones first.
func (w *worker) mounts(container *v1.Container, variables map[string]string) ([]spec.Mount, error) {
	var mounts []spec.Mount
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		mounts = append(mounts, spec.Mount{Source: filepath.Join(w.folder, name), Target: "/etc/" + name})
	}
	for _, asked := range container.VolumeMounts {
		source, readOnly := w.volumePath(asked.Name), asked.ReadOnly
		within := asked.SubPath
		if asked.SubPathExpr != "" {
			within = expansion.Expand(asked.SubPathExpr, expansion.MappingFuncFor(variables))
		}
		if within != "" {
			source = filepath.Join(source, within)
			if _, err := os.Stat(source); err != nil {
				return nil, fmt.Errorf("subPath %s of volume %s: %w", within, asked.Name, err)
			}
		}
		mounts = append(mounts, spec.Mount{Source: source, Target: path.Clean(asked.MountPath), ReadOnly: readOnly})
	}
	slices.SortStableFunc(mounts, func(one, other spec.Mount) int {
		return strings.Count(one.Target, "/") - strings.Count(other.Target, "/")
	})
	return mounts, nil
}

func (w *worker) openLog(container string, nth int32) (*os.File, error) {
	folder := filepath.Join(w.settings.logs, w.name())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(folder, fmt.Sprintf("%s-%d.log", container, nth)))
}

func (p *process) await(scratch string) {
	// The status says how it ended; an error says nothing more.
	_ = p.command.Wait()
	p.ended = time.Now()
	p.code = p.command.ProcessState.ExitCode()
	if status, ok := p.command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.code = 128 + int(status.Signal())
	}
	close(p.done)
	// Its mounts went with its namespace.
	os.RemoveAll(scratch)
}

// signal ignores a process that has ended: that is what the sender wants.
func (p *process) signal(number syscall.Signal) {
	_ = p.command.Process.Signal(number)
}

// inside runs a command in the container, as its user, and gives an error unless it ends with 0.
func (p *process) inside(ctx context.Context, words []string) error {
	options := []string{
		fmt.Sprintf("--target=%d", p.command.Process.Pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
		fmt.Sprintf("--setgid=%d", p.group), fmt.Sprintf("--setuid=%d", p.user), "--",
	}
	command := exec.CommandContext(ctx, "nsenter", append(options, words...)...)
	command.Env = p.environment
	// nsenter forks to enter the process namespace; a time-out ends both.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// Becomes the program of one container: started by the kubelet in new mount, process, IPC and host name namespaces, it
// joins the pod's network, lays out the root file system, gives up its rights and executes the program in its own
// place, which therefore is process 1 of the container. Decides nothing: everything is in the specification that it is given.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"tickgate/tests/kubernetes/spec"
)

// startFailed is the exit status when the program could not be started, as container runtimes report it.
const startFailed = 128

func main() {
	// Namespaces and capabilities belong to a thread; the one that prepares everything is the one that executes.
	runtime.LockOSThread()
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "container:", err)
		os.Exit(startFailed)
	}
}

func start() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: container SPEC")
	}
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var container spec.Container
	if err := json.Unmarshal(text, &container); err != nil {
		return fmt.Errorf("%s: %w", os.Args[1], err)
	}
	if err := joinNetwork(container.NetworkNamespace); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(container.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := enterRoot(&container); err != nil {
		return err
	}
	program, err := lookUp(container.Args[0], container.Env)
	if err != nil {
		return err
	}
	if err := giveUpRights(&container); err != nil {
		return err
	}
	if container.Dir != "" {
		if err := os.Chdir(container.Dir); err != nil {
			return err
		}
	}
	if err := unix.Exec(program, container.Args, container.Env); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

func joinNetwork(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("join %s: %w", path, err)
	}
	return nil
}

// lookUp finds the program the way a shell would, in the container's PATH.
func lookUp(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, variable := range env {
		if value, found := strings.CutPrefix(variable, "PATH="); found {
			path = value
		}
	}
	for _, folder := range filepath.SplitList(path) {
		candidate := filepath.Join(folder, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("%s: executable file not found in $PATH", name)
}

// One container of a pod: started, probed, started again with a growing delay, and stopped.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	backOffMin = 10 * time.Second
	backOffMax = 5 * time.Minute
	// A container that ran this long begins again with the shortest delay.
	backOffReset = 10 * time.Minute
	// What cannot be started for want of a Secret or an image is tried again this often.
	startRetry = 2 * time.Second
	// A hook may take all of the grace period; the program still gets this long.
	graceMin = 2 * time.Second
)

type role int

const (
	initial role = iota
	sidecar
	ordinary
)

type container struct {
	worker *worker
	spec   *v1.Container
	role   role
	// up is closed when it has passed its start-up probe for the first time.
	up     chan struct{}
	upOnce sync.Once

	mu       sync.Mutex
	state    v1.ContainerState
	last     v1.ContainerState
	restarts int32
	started  bool
	ready    bool
	process  *process
	// stopped: no further start, whatever the restart policy says.
	stopped bool
}

func newContainer(w *worker, spec *v1.Container, role role) *container {
	waiting := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "PodInitializing"}}
	return &container{worker: w, spec: spec, role: role, up: make(chan struct{}), state: waiting}
}

// supervise runs it until it has ended for good, and gives its last exit code.
func (c *container) supervise(ctx context.Context) int {
	delay := time.Duration(0)
	for {
		process, err := c.start(ctx)
		if err != nil {
			c.reportWaiting(err)
			if !sleep(ctx, startRetry) {
				return -1
			}
			continue
		}
		if process == nil {
			return -1
		}
		c.attend(process)
		ran := process.ended.Sub(process.began)
		if ctx.Err() != nil || !c.restartsAfter(process.code) {
			return process.code
		}
		if ran > backOffReset {
			delay = 0
		}
		c.backOff(delay, process.code)
		if !sleep(ctx, delay) {
			return process.code
		}
		delay = min(max(2*delay, backOffMin), backOffMax)
	}
}

// start gives nil if the container was stopped meanwhile.
func (c *container) start(ctx context.Context) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped || ctx.Err() != nil {
		return nil, nil
	}
	nth := c.restarts
	if c.last.Terminated != nil {
		nth++
	}
	process, err := c.worker.launch(ctx, c.spec, nth)
	if err != nil {
		return nil, err
	}
	c.restarts, c.process = nth, process
	c.state = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: meta.NewTime(process.began)}}
	c.worker.changed()
	c.worker.event(v1.EventTypeNormal, "Started", "Container %s started", c.spec.Name)
	return process, nil
}

// attend runs hook and probes until the process has ended.
func (c *container) attend(process *process) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		if c.afterStart(ctx, process) {
			c.probe(ctx, process)
		}
	}()
	<-process.done
	cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	reason := "Completed"
	if process.code != 0 {
		reason = "Error"
	}
	c.state = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		ExitCode: int32(process.code), Reason: reason,
		StartedAt: meta.NewTime(process.began), FinishedAt: meta.NewTime(process.ended),
	}}
	c.last = c.state
	c.started, c.ready = false, false
	c.worker.changed()
}

func (c *container) restartsAfter(code int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	switch c.worker.latest().Spec.RestartPolicy {
	case v1.RestartPolicyNever:
		return c.role == sidecar
	case v1.RestartPolicyOnFailure:
		return c.role == sidecar || code != 0
	default:
		return c.role != initial || code != 0
	}
}

func (c *container) backOff(delay time.Duration, code int) {
	c.worker.event(v1.EventTypeWarning, "BackOff", "Container %s ended with %d; restarting it in %s", c.spec.Name, code, delay)
	if delay == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	message := fmt.Sprintf("back-off %s restarting failed container %s", delay, c.spec.Name)
	c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: message}}
	c.worker.changed()
}

func (c *container) reportWaiting(err error) {
	reason := "CreateContainerError"
	var known *startError
	if errors.As(err, &known) {
		reason = known.reason
	}
	c.worker.event(v1.EventTypeWarning, "Failed", "Container %s: %v", c.spec.Name, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: err.Error()}}
	c.worker.changed()
}

// stop ends it for good: hook, SIGTERM, and SIGKILL when the grace is over.
func (c *container) stop(grace time.Duration) {
	c.mu.Lock()
	c.stopped = true
	process := c.process
	c.mu.Unlock()
	c.end(process, grace)
}

// end ends one process; the restart policy decides what comes next.
func (c *container) end(process *process, grace time.Duration) {
	if process == nil {
		return
	}
	select {
	case <-process.done:
		return
	default:
	}
	deadline := time.Now().Add(grace)
	c.beforeStop(process, deadline)
	process.signal(syscall.SIGTERM)
	left := time.Until(deadline)
	if grace > 0 {
		left = max(left, graceMin)
	}
	select {
	case <-process.done:
		return
	case <-time.After(left):
	}
	c.worker.event(v1.EventTypeWarning, "Killed", "Container %s did not end within its grace of %s", c.spec.Name, grace)
	process.signal(syscall.SIGKILL)
	<-process.done
}

// status is what the pod's status says about it.
func (c *container) status() v1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	started := c.started
	status := v1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, State: c.state,
		Ready: c.ready, Started: &started, RestartCount: c.restarts,
	}
	if c.process != nil {
		status.ContainerID = fmt.Sprintf("process://%d", c.process.command.Process.Pid)
	}
	if c.role == initial {
		status.Ready = c.state.Terminated != nil && c.state.Terminated.ExitCode == 0
	}
	if c.state.Terminated == nil {
		status.LastTerminationState = c.last
	}
	return status
}

// sleep is false when the context ended first.
func sleep(ctx context.Context, duration time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(duration):
		return true
	}
}

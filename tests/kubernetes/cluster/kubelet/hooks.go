// Lifecycle hooks: what runs right after the start of a container, and before it is told to stop.
package main

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// afterStart is false when the hook failed, which ends the process.
func (c *container) afterStart(ctx context.Context, process *process) bool {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PostStart == nil {
		return true
	}
	if err := c.hook(ctx, c.spec.Lifecycle.PostStart, process); err != nil {
		if ctx.Err() == nil {
			c.worker.event(v1.EventTypeWarning, "FailedPostStartHook", "Container %s: %v", c.spec.Name, err)
			c.end(process, time.Duration(*c.worker.latest().Spec.TerminationGracePeriodSeconds)*time.Second)
		}
		return false
	}
	return true
}

// beforeStop runs within the grace period; a hook that fails does not keep the container from being stopped.
func (c *container) beforeStop(process *process, deadline time.Time) {
	if c.spec.Lifecycle == nil || c.spec.Lifecycle.PreStop == nil {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	go func() {
		select {
		case <-process.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := c.hook(ctx, c.spec.Lifecycle.PreStop, process); err != nil {
		c.worker.event(v1.EventTypeWarning, "FailedPreStopHook", "Container %s: %v", c.spec.Name, err)
	}
}

func (c *container) hook(ctx context.Context, handler *v1.LifecycleHandler, process *process) error {
	switch {
	case handler.Sleep != nil:
		if !sleep(ctx, time.Duration(handler.Sleep.Seconds)*time.Second) {
			return ctx.Err()
		}
		return nil
	case handler.Exec != nil:
		return process.inside(ctx, handler.Exec.Command)
	case handler.HTTPGet != nil:
		return c.getHTTP(handler.HTTPGet, graceMin)
	}
	return fmt.Errorf("this kind of hook is not supported")
}

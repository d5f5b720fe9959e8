// Probes: start-up first, then readiness and liveness, with the numbers of the container.
package main

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubeprobe "k8s.io/kubernetes/pkg/probe"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	tcpprobe "k8s.io/kubernetes/pkg/probe/tcp"
)

var (
	httpProber = httpprobe.New(false)
	tcpProber  = tcpprobe.New()
)

// probe runs the probes of one process until the context ends.
func (c *container) probe(ctx context.Context, process *process) {
	if startup := c.spec.StartupProbe; startup != nil {
		passed := make(chan bool, 1)
		startupCtx, done := context.WithCancel(ctx)
		c.follow(startupCtx, "Startup", startup, process, false, func(well bool) {
			passed <- well
			done()
		})
		done()
		select {
		case well := <-passed:
			if !well {
				c.unhealthy("Startup", startup, process)
				return
			}
		default:
			return
		}
	}
	c.mu.Lock()
	c.started = true
	c.ready = c.spec.ReadinessProbe == nil
	c.mu.Unlock()
	c.upOnce.Do(func() { close(c.up) })
	c.worker.changed()
	if liveness := c.spec.LivenessProbe; liveness != nil {
		go c.follow(ctx, "Liveness", liveness, process, true, func(well bool) {
			if !well {
				c.unhealthy("Liveness", liveness, process)
			}
		})
	}
	if readiness := c.spec.ReadinessProbe; readiness != nil {
		c.follow(ctx, "Readiness", readiness, process, false, func(well bool) {
			c.mu.Lock()
			c.ready = well
			c.mu.Unlock()
			c.worker.changed()
		})
	}
}

// unhealthy ends the process; whether it starts again is up to the restart policy. A container that is being stopped is
// left alone: its grace period is its own.
func (c *container) unhealthy(kind string, probe *v1.Probe, process *process) {
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		return
	}
	c.worker.event(v1.EventTypeWarning, "Killing", "Container %s failed its %s probe and is stopped", c.spec.Name, kind)
	grace := c.worker.latest().Spec.TerminationGracePeriodSeconds
	if probe.TerminationGracePeriodSeconds != nil {
		grace = probe.TerminationGracePeriodSeconds
	}
	c.end(process, time.Duration(*grace)*time.Second)
}

// follow asks again and again and calls changed when the verdict changes, which takes as many answers of one kind in a
// row as the probe's thresholds say. It begins with the verdict given. A verdict of false is told even if it was false
// before: a start-up probe fails once its answers are used up.
func (c *container) follow(ctx context.Context, kind string, probe *v1.Probe, process *process, verdict bool, changed func(bool)) {
	if !sleep(ctx, time.Duration(probe.InitialDelaySeconds)*time.Second) {
		return
	}
	inARow, before := int32(0), verdict
	failed := false
	for ctx.Err() == nil {
		began := time.Now()
		err := c.ask(ctx, probe, process)
		if ctx.Err() != nil {
			return
		}
		well := err == nil
		if well != before {
			inARow = 0
		}
		inARow, before = inARow+1, well
		switch {
		case well && !verdict && inARow >= probe.SuccessThreshold:
			verdict, failed = true, false
			changed(true)
		case !well && !failed && inARow >= probe.FailureThreshold:
			c.worker.event(v1.EventTypeWarning, "Unhealthy", "%s probe of %s failed: %v", kind, c.spec.Name, err)
			verdict, failed = false, true
			changed(false)
		}
		if !sleep(ctx, time.Duration(probe.PeriodSeconds)*time.Second-time.Since(began)) {
			return
		}
	}
}

// ask is one question; nil is a good answer.
func (c *container) ask(ctx context.Context, probe *v1.Probe, process *process) error {
	timeout := time.Duration(probe.TimeoutSeconds) * time.Second
	switch handler := probe.ProbeHandler; {
	case handler.HTTPGet != nil:
		return c.getHTTP(handler.HTTPGet, timeout)
	case handler.TCPSocket != nil:
		return c.connectTCP(handler.TCPSocket.Host, handler.TCPSocket.Port, timeout)
	case handler.Exec != nil:
		limited, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return process.inside(limited, handler.Exec.Command)
	}
	return fmt.Errorf("this kind of probe is not supported")
}

func (c *container) getHTTP(action *v1.HTTPGetAction, timeout time.Duration) error {
	request, err := httpprobe.NewRequestForHTTPGetAction(action, c.spec, c.worker.link.address(), "probe")
	if err != nil {
		return err
	}
	return verdictOf(httpProber.Probe(request, timeout))
}

func (c *container) connectTCP(host string, named intstr.IntOrString, timeout time.Duration) error {
	port, err := kubeprobe.ResolveContainerPort(named, c.spec)
	if err != nil {
		return err
	}
	if host == "" {
		host = c.worker.link.address()
	}
	return verdictOf(tcpProber.Probe(host, port, timeout))
}

func verdictOf(result kubeprobe.Result, said string, err error) error {
	if err != nil {
		return err
	}
	if result == kubeprobe.Failure || result == kubeprobe.Unknown {
		return fmt.Errorf("%s", said)
	}
	return nil
}

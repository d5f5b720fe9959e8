// What the API is told about a pod: its phase, its conditions, its containers; and in the end that it may be removed.
package main

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	podutil "k8s.io/kubernetes/pkg/util/pod"
)

const reportRetry = time.Second

// reporter sends the status whenever it changes.
type reporter struct {
	worker *worker
	// reported is what the API has from us.
	reported v1.PodStatus
	stop     chan struct{}
	stopped  chan struct{}
}

func (w *worker) startReporting() *reporter {
	r := &reporter{worker: w, reported: w.latest().Status, stop: make(chan struct{}), stopped: make(chan struct{})}
	go r.run()
	return r
}

func (r *reporter) run() {
	defer close(r.stopped)
	for {
		select {
		case <-r.worker.wake:
		case <-r.stop:
			return
		}
		for !r.send() {
			select {
			case <-time.After(reportRetry):
			case <-r.stop:
				return
			}
		}
	}
}

// finish sends the last status and removes the pod from the API.
func (r *reporter) finish() {
	close(r.stop)
	<-r.stopped
	for !r.send() || !r.remove() {
		time.Sleep(reportRetry)
	}
}

// send is true when the API has the present status, or has no such pod any more.
func (r *reporter) send() bool {
	w := r.worker
	pod := w.latest()
	status := w.status(&r.reported)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _, unchanged, err := podutil.PatchPodStatus(ctx, w.client, pod.Namespace, pod.Name, pod.UID, r.reported, status)
	switch {
	case errors.IsNotFound(err) || errors.IsConflict(err):
		// Another pod has the name by now: its UID differs.
		return true
	case err != nil:
		klog.ErrorS(err, "can't report the status of a pod", "pod", w.name())
		return false
	}
	if !unchanged {
		r.reported = status
	}
	return true
}

func (r *reporter) remove() bool {
	pod := r.worker.latest()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	options := meta.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: meta.NewUIDPreconditions(string(pod.UID))}
	err := r.worker.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if err == nil || errors.IsNotFound(err) || errors.IsConflict(err) {
		return true
	}
	klog.ErrorS(err, "can't remove a pod", "pod", r.worker.name())
	return false
}

// status is the present one, built on what was reported before, so that only differences are sent.
func (w *worker) status(before *v1.PodStatus) v1.PodStatus {
	w.mu.Lock()
	pod, link, failure, failureReason := w.pod, w.link, w.failure, w.failureReason
	w.mu.Unlock()
	status := *before.DeepCopy()
	status.ObservedGeneration = pod.Generation
	status.HostIP, status.HostIPs = w.settings.addresses[0], nil
	for _, address := range w.settings.addresses {
		status.HostIPs = append(status.HostIPs, v1.HostIP{IP: address})
	}
	if link != nil {
		status.PodIP, status.PodIPs = link.address(), nil
		for _, address := range link.addresses {
			status.PodIPs = append(status.PodIPs, v1.PodIP{IP: address})
		}
	}
	if status.StartTime == nil {
		now := meta.Now()
		status.StartTime = &now
	}
	status.InitContainerStatuses, status.ContainerStatuses = nil, nil
	for _, container := range w.containers {
		if container.role == ordinary {
			status.ContainerStatuses = append(status.ContainerStatuses, container.status())
		} else {
			status.InitContainerStatuses = append(status.InitContainerStatuses, container.status())
		}
	}
	status.Phase = phase(pod, w.containers, &status)
	if failure != "" {
		status.Phase, status.Reason, status.Message = v1.PodFailed, failureReason, failure
	}
	w.setConditions(pod, &status)
	return status
}

func phase(pod *v1.Pod, containers []*container, status *v1.PodStatus) v1.PodPhase {
	for i, init := range status.InitContainerStatuses {
		if containers[i].role == initial && (init.State.Terminated == nil || init.State.Terminated.ExitCode != 0) {
			return v1.PodPending
		}
	}
	ended, failed := 0, 0
	for _, container := range status.ContainerStatuses {
		switch {
		case container.State.Terminated != nil:
			ended++
			if container.State.Terminated.ExitCode != 0 {
				failed++
			}
		case container.State.Running == nil && container.LastTerminationState.Terminated == nil:
			return v1.PodPending
		}
	}
	final := pod.DeletionTimestamp != nil || pod.Spec.RestartPolicy == v1.RestartPolicyNever ||
		pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure && failed == 0
	switch {
	case ended < len(status.ContainerStatuses) || !final:
		return v1.PodRunning
	case failed > 0:
		return v1.PodFailed
	}
	return v1.PodSucceeded
}

func (w *worker) setConditions(pod *v1.Pod, status *v1.PodStatus) {
	initialized := true
	for i, init := range status.InitContainerStatuses {
		if w.containers[i].role == initial {
			initialized = initialized && init.Ready
		} else {
			initialized = initialized && init.Started != nil && *init.Started
		}
	}
	containersReady := status.Phase == v1.PodRunning
	for _, container := range slices.Concat(status.ContainerStatuses, status.InitContainerStatuses) {
		containersReady = containersReady && container.Ready
	}
	ready := containersReady
	for _, gate := range pod.Spec.ReadinessGates {
		ready = ready && slices.ContainsFunc(pod.Status.Conditions, func(condition v1.PodCondition) bool {
			return condition.Type == gate.ConditionType && condition.Status == v1.ConditionTrue
		})
	}
	setCondition(pod, status, v1.PodReadyToStartContainers, status.PodIP != "")
	setCondition(pod, status, v1.PodInitialized, initialized)
	setCondition(pod, status, v1.ContainersReady, containersReady)
	setCondition(pod, status, v1.PodReady, ready)
}

func setCondition(pod *v1.Pod, status *v1.PodStatus, kind v1.PodConditionType, holds bool) {
	condition := v1.PodCondition{Type: kind, Status: v1.ConditionFalse, LastTransitionTime: meta.Now(), ObservedGeneration: pod.Generation}
	if holds {
		condition.Status = v1.ConditionTrue
	}
	for _, known := range status.Conditions {
		if known.Type == kind && known.Status == condition.Status {
			condition.LastTransitionTime = known.LastTransitionTime
		}
	}
	status.Conditions = podutil.ReplaceOrAppendPodCondition(status.Conditions, &condition)
}

// The life of one pod on this node: network, volumes, init containers, containers, end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

const (
	mountRetry = 2 * time.Second
	// ConfigMaps and Secrets reach the files of running pods this often, as with a real kubelet at its slowest.
	volumeRefresh = 60 * time.Second
)

var (
	errDeleted  = errors.New("the pod is deleted")
	errDeadline = errors.New("Pod was active on the node longer than the specified deadline")
)

type worker struct {
	*kubelet
	folder string
	// deleted is closed when somebody asks for the pod's deletion, vanished when it is no longer in the API.
	deleted, vanished         chan struct{}
	deletedOnce, vanishedOnce sync.Once
	wake                      chan struct{}
	containers                []*container

	mu  sync.Mutex
	pod *v1.Pod
	// link is there once the pod is attached, before its volumes and containers are.
	link        *link
	volumePaths map[string]string
	// failure is why the pod failed as a whole.
	failure       string
	failureReason string
}

func newWorker(k *kubelet, pod *v1.Pod) *worker {
	w := &worker{
		kubelet: k, pod: pod, folder: filepath.Join(k.settings.state, string(pod.UID)),
		deleted: make(chan struct{}), vanished: make(chan struct{}), wake: make(chan struct{}, 1),
		volumePaths: map[string]string{},
	}
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		role := initial
		if spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways {
			role = sidecar
		}
		w.containers = append(w.containers, newContainer(w, spec, role))
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, newContainer(w, &pod.Spec.Containers[i], ordinary))
	}
	return w
}

// update takes over what the API says about the pod.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.mu.Unlock()
	if pod.DeletionTimestamp != nil {
		w.deletedOnce.Do(func() { close(w.deleted) })
	}
	w.changed()
}

func (w *worker) vanish() {
	w.deletedOnce.Do(func() { close(w.deleted) })
	w.vanishedOnce.Do(func() { close(w.vanished) })
}

// run returns when the pod is gone from the node and from the API.
func (w *worker) run() {
	ctx, cancel := context.WithCancelCause(context.Background())
	reporting := w.startReporting()
	go w.watchForEnd(ctx, cancel)
	err := w.live(ctx)
	if err != nil && ctx.Err() == nil {
		w.fail("Failed", err.Error())
	}
	if errors.Is(context.Cause(ctx), errDeadline) {
		w.fail("DeadlineExceeded", errDeadline.Error())
	}
	w.terminate()
	cancel(nil)
	<-w.deleted
	reporting.finish()
	w.cleanUp()
}

func (w *worker) watchForEnd(ctx context.Context, cancel context.CancelCauseFunc) {
	var deadline <-chan time.Time
	if seconds := w.latest().Spec.ActiveDeadlineSeconds; seconds != nil {
		deadline = time.After(time.Duration(*seconds) * time.Second)
	}
	select {
	case <-w.deleted:
		cancel(errDeleted)
	case <-deadline:
		cancel(errDeadline)
	case <-ctx.Done():
	}
}

// live runs the containers until all have ended for good, or until the context ends. An error fails the pod.
func (w *worker) live(ctx context.Context) error {
	if w.latest().Spec.HostNetwork || w.latest().Spec.HostPID || w.latest().Spec.HostIPC {
		return fmt.Errorf("pods in the node's own namespaces are not supported")
	}
	if err := w.prepare(ctx); err != nil {
		return err
	}
	var running sync.WaitGroup
	refreshing, stop := context.WithCancel(ctx)
	defer stop()
	go w.refreshVolumes(refreshing)
	for _, container := range w.containers {
		switch container.role {
		case initial:
			ended := make(chan int, 1)
			go func() { ended <- container.supervise(ctx) }()
			select {
			case code := <-ended:
				if code != 0 && ctx.Err() == nil {
					return fmt.Errorf("init container %s ended with %d", container.spec.Name, code)
				}
			case <-ctx.Done():
				return nil
			}
		case sidecar:
			go container.supervise(ctx)
			select {
			case <-container.up:
			case <-ctx.Done():
				return nil
			}
		case ordinary:
			running.Go(func() { container.supervise(ctx) })
		}
	}
	all := make(chan struct{})
	go func() {
		running.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
	}
	return nil
}

// prepare gives the pod its network and its volumes. What is missing may come: only the end of the pod ends the wait.
func (w *worker) prepare(ctx context.Context) error {
	if err := os.MkdirAll(w.folder, 0o755); err != nil {
		return err
	}
	attached, err := w.network.attach()
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.link = attached
	w.mu.Unlock()
	w.changed()
	if err := w.writeNames(); err != nil {
		return err
	}
	for {
		err := w.mountVolumes(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		w.event(v1.EventTypeWarning, "FailedMount", "%v", err)
		if !sleep(ctx, mountRetry) {
			return nil
		}
	}
}

func (w *worker) refreshVolumes(ctx context.Context) {
	for sleep(ctx, volumeRefresh) {
		if err := w.mountVolumes(ctx); err != nil && ctx.Err() == nil {
			w.event(v1.EventTypeWarning, "FailedMount", "%v", err)
		}
	}
}

// terminate stops what still runs: the containers at once, then the sidecars, the last one first.
func (w *worker) terminate() {
	ends := time.Now().Add(w.grace())
	var stopping sync.WaitGroup
	for _, container := range w.containers {
		if container.role != sidecar {
			stopping.Go(func() { container.stop(time.Until(ends)) })
		}
	}
	stopping.Wait()
	for _, container := range slices.Backward(w.containers) {
		if container.role == sidecar {
			container.stop(time.Until(ends))
		}
	}
}

// grace is the time between the first signal and the last.
func (w *worker) grace() time.Duration {
	pod := w.latest()
	seconds := pod.Spec.TerminationGracePeriodSeconds
	if pod.DeletionGracePeriodSeconds != nil {
		seconds = pod.DeletionGracePeriodSeconds
	}
	return time.Duration(*seconds) * time.Second
}

func (w *worker) cleanUp() {
	if w.link != nil {
		if err := w.link.detach(); err != nil {
			klog.ErrorS(err, "can't remove the network of a pod", "pod", w.name())
		}
	}
	if err := os.RemoveAll(w.folder); err != nil {
		klog.ErrorS(err, "can't remove the folder of a pod", "pod", w.name())
	}
}

func (w *worker) latest() *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

func (w *worker) name() string {
	pod := w.latest()
	return pod.Namespace + "_" + pod.Name
}

func (w *worker) fail(reason, message string) {
	w.mu.Lock()
	w.failureReason, w.failure = reason, message
	w.mu.Unlock()
	w.changed()
}

// changed says that the status is worth reporting again.
func (w *worker) changed() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) event(kind, reason, format string, values ...any) {
	w.recorder.Eventf(w.latest(), kind, reason, format, values...)
}

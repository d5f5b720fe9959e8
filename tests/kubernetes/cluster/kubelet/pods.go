// The pods that are bound to this node: each has a worker from its first sight to its removal.
package main

import (
	"context"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

type workers struct {
	kubelet *kubelet
	mu      sync.Mutex
	byUID   map[types.UID]*worker
}

// runPods returns when the context ends; the pods' processes end with this one's process namespace.
func (k *kubelet) runPods(ctx context.Context) error {
	all := &workers{kubelet: k, byUID: map[types.UID]*worker{}}
	own := fields.OneTermEqualSelector("spec.nodeName", k.settings.node).String()
	factory := informers.NewSharedInformerFactoryWithOptions(k.client, 0,
		informers.WithTweakListOptions(func(options *meta.ListOptions) { options.FieldSelector = own }))
	informer := factory.Core().V1().Pods().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { all.see(object.(*v1.Pod)) },
		UpdateFunc: func(_, object any) { all.see(object.(*v1.Pod)) },
		DeleteFunc: all.lose,
	})
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("stopped before the pods were known")
	}
	<-ctx.Done()
	return nil
}

func (all *workers) see(pod *v1.Pod) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if known, there := all.byUID[pod.UID]; there {
		known.update(pod)
		return
	}
	made := newWorker(all.kubelet, pod)
	all.byUID[pod.UID] = made
	made.update(pod)
	go made.run()
}

// lose forgets the pod, and not before: until then a late word about it must not start it again.
func (all *workers) lose(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	pod := object.(*v1.Pod)
	all.mu.Lock()
	defer all.mu.Unlock()
	if known, there := all.byUID[pod.UID]; there {
		known.vanish()
		delete(all.byUID, pod.UID)
	}
}

// The Services that a pod's environment tells of.
package main

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
)

type services struct {
	lister listers.ServiceLister
}

func watchServices(ctx context.Context, client kubernetes.Interface) *services {
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Services()
	synced := informer.Informer().HasSynced
	factory.StartWithContext(ctx)
	cache.WaitForCacheSync(ctx.Done(), synced)
	return &services{lister: informer.Lister()}
}

// environment is what a container of the namespace gets: where the API server is, and, unless the pod turns it off, where
// every Service of its namespace is. The name of such a variable begins with the name of the Service.
func (s *services) environment(pod *v1.Pod) ([]v1.EnvVar, error) {
	seen, err := s.lister.Services(v1.NamespaceDefault).List(labels.SelectorFromSet(labels.Set{"component": "apiserver"}))
	if err != nil {
		return nil, err
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		own, err := s.lister.Services(pod.Namespace).List(labels.Everything())
		if err != nil {
			return nil, err
		}
		seen = append(seen, own...)
	}
	var withAddress []*v1.Service
	for _, service := range seen {
		if service.Spec.ClusterIP != "" && service.Spec.ClusterIP != v1.ClusterIPNone {
			withAddress = append(withAddress, service)
		}
	}
	return envvars.FromServices(withAddress), nil
}

// The node as the control plane sees it: its object, its lease, and the pod network that it was given.
package main

import (
	"context"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"
)

const (
	leaseSeconds  = 40
	leaseInterval = 10 * time.Second
)

// register creates the node and waits until the control plane has assigned it ranges of pod addresses.
func (k *kubelet) register(ctx context.Context) ([]string, error) {
	node := k.describeNode()
	created, err := k.client.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{})
	if err != nil {
		return nil, err
	}
	if err := k.createLease(ctx, created); err != nil {
		return nil, err
	}
	var podCIDRs []string
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		found, err := k.client.CoreV1().Nodes().Get(ctx, node.Name, meta.GetOptions{})
		if err != nil {
			return false, err
		}
		podCIDRs = found.Spec.PodCIDRs
		return len(podCIDRs) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("no podCIDR: %w", err)
	}
	return podCIDRs, nil
}

func (k *kubelet) describeNode() *v1.Node {
	// More than the machine has: the tests are about behaviour, and nothing limits what a process takes.
	room := v1.ResourceList{
		v1.ResourceCPU:    resource.MustParse("16"),
		v1.ResourceMemory: resource.MustParse("32Gi"),
		v1.ResourcePods:   resource.MustParse("110"),
	}
	now := meta.Now()
	condition := func(kind v1.NodeConditionType, status v1.ConditionStatus, reason string) v1.NodeCondition {
		return v1.NodeCondition{Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	addresses := []v1.NodeAddress{{Type: v1.NodeHostName, Address: k.settings.node}}
	for _, address := range k.settings.addresses {
		addresses = append(addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: address})
	}
	return &v1.Node{
		ObjectMeta: meta.ObjectMeta{
			Name: k.settings.node,
			Labels: map[string]string{
				v1.LabelHostname:     k.settings.node,
				v1.LabelTopologyZone: k.settings.zone,
				v1.LabelOSStable:     "linux",
				v1.LabelArchStable:   "amd64",
			},
		},
		Status: v1.NodeStatus{
			Capacity:    room,
			Allocatable: room,
			Addresses:   addresses,
			Conditions: []v1.NodeCondition{
				condition(v1.NodeReady, v1.ConditionTrue, "KubeletReady"),
				condition(v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"),
				condition(v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"),
				condition(v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"),
			},
			NodeInfo: v1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: version.Get().GitVersion, ContainerRuntimeVersion: "process://1",
			},
		},
	}
}

func (k *kubelet) createLease(ctx context.Context, node *v1.Node) error {
	seconds := int32(leaseSeconds)
	now := meta.NowMicro()
	lease := &coordination.Lease{
		ObjectMeta: meta.ObjectMeta{
			Name:            node.Name,
			Namespace:       v1.NamespaceNodeLease,
			OwnerReferences: []meta.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: coordination.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	_, err := k.client.CoordinationV1().Leases(v1.NamespaceNodeLease).Create(ctx, lease, meta.CreateOptions{})
	return err
}

// heartbeat renews the lease. Without it the control plane takes the node for lost and evicts its pods.
func (k *kubelet) heartbeat(ctx context.Context) {
	leases := k.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		lease, err := leases.Get(ctx, k.settings.node, meta.GetOptions{})
		if err == nil {
			now := meta.NowMicro()
			lease.Spec.RenewTime = &now
			_, err = leases.Update(ctx, lease, meta.UpdateOptions{})
		}
		if err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "can't renew the node's lease")
		}
	}, leaseInterval)
}

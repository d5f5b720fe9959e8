// A small kubelet: runs the pods of one node as processes in namespaces of their own, on the machine of the test. It does
// what the kubelet's documents promise to a pod, as far as README.md beside this module says; nothing outlives it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
)

// kubelet is what every part of it shares.
type kubelet struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	settings settings
	images   images
	network  *network
	services *services
}

// settings come from flags.
type settings struct {
	kubeconfig, node, zone string
	// addresses of the node, one of each family.
	addresses []string
	// state holds volumes and root file systems, logs what containers write.
	state, logs string
	images      string
	// container is the program that becomes a container; see ../container.
	container string
	// gateways are addresses of this machine in the pods' network, one of each family.
	gateways []netip.Addr
	resolver string
}

func main() {
	settings := settings{}
	flag.StringVar(&settings.kubeconfig, "kubeconfig", "", "how to reach the API server")
	flag.StringVar(&settings.node, "node", "", "name of the node")
	flag.StringVar(&settings.zone, "zone", "", "zone of the node")
	flag.Func("addresses", "addresses of the node, with commas between", func(text string) error {
		settings.addresses = strings.Split(text, ",")
		return nil
	})
	flag.StringVar(&settings.state, "state", "", "folder for volumes and root file systems; emptied by whoever made it")
	flag.StringVar(&settings.logs, "logs", "", "folder for the containers' output")
	flag.StringVar(&settings.images, "images", "", "JSON file that says which folder holds which image")
	flag.StringVar(&settings.container, "container", "", "the program that becomes a container")
	flag.Func("gateways", "addresses of this machine in the pods' network, with commas between", func(text string) error {
		for _, part := range strings.Split(text, ",") {
			address, err := netip.ParseAddr(part)
			if err != nil {
				return err
			}
			settings.gateways = append(settings.gateways, address)
		}
		return nil
	})
	flag.StringVar(&settings.resolver, "resolver", "", "address of the name server")
	flag.Parse()
	if err := run(settings); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		os.Exit(1)
	}
}

func run(settings settings) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	settings.state = filepath.Join(settings.state, settings.node)
	config, err := clientcmd.BuildConfigFromFlags("", settings.kubeconfig)
	if err != nil {
		return err
	}
	// Probes and leases must never wait behind the requests of many pods that start at once.
	config.QPS, config.Burst = 100, 200
	k := &kubelet{settings: settings}
	if k.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if k.images, err = readImages(settings.images); err != nil {
		return err
	}
	k.recorder = newRecorder(ctx, config, settings.node)
	podCIDRs, err := k.register(ctx)
	if err != nil {
		return fmt.Errorf("register node %s: %w", settings.node, err)
	}
	if k.network, err = newNetwork(settings.node, podCIDRs, settings.gateways); err != nil {
		return err
	}
	go k.heartbeat(ctx)
	k.services = watchServices(ctx, k.client)
	return k.runPods(ctx)
}

func newRecorder(ctx context.Context, config *rest.Config, node string) record.EventRecorder {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typed.EventSinkImpl{Interface: kubernetes.NewForConfigOrDie(config).CoreV1().Events("")})
	return broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: node})
}

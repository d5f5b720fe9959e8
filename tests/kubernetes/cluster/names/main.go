// The cluster's name server: knows the names of Services, as docs of Kubernetes' "DNS for Services and Pods" lay down for
// addresses, and nothing of the world outside.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	domain = ".svc.cluster.local."
	// Endpoints of headless Services change; nobody keeps an answer for long.
	lifetimeSeconds = 5
	// A question over UDP is no longer than this.
	questionBytesMax = 1232
)

type server struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	listen := flag.String("listen", "", "address and port, UDP")
	flag.Parse()
	if err := run(*kubeconfig, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "names:", err)
		os.Exit(1)
	}
}

func run(kubeconfig, listen string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx := context.Background()
	factory := informers.NewSharedInformerFactory(client, 0)
	s := &server{services: factory.Core().V1().Services().Lister(), slices: factory.Discovery().V1().EndpointSlices().Lister()}
	factory.StartWithContext(ctx)
	factory.WaitForCacheSyncWithContext(ctx)
	socket, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	buffer := make([]byte, questionBytesMax)
	for {
		size, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := s.answer(buffer[:size])
		if err != nil {
			log.Printf("a question of %s: %v", from, err)
			continue
		}
		// An answer that is lost is asked for again.
		_, _ = socket.WriteTo(answer, from)
	}
}

func (s *server) answer(packet []byte) ([]byte, error) {
	var asked dnsmessage.Message
	if err := asked.Unpack(packet); err != nil {
		return nil, err
	}
	if len(asked.Questions) != 1 {
		return nil, fmt.Errorf("%d questions", len(asked.Questions))
	}
	question := asked.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: asked.ID, Response: true, Authoritative: true, RecursionDesired: asked.RecursionDesired},
		Questions: asked.Questions,
	}
	addresses, known := s.look(strings.ToLower(question.Name.String()))
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, address := range addresses {
		header := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: lifetimeSeconds}
		switch {
		case address.Is4() && question.Type == dnsmessage.TypeA:
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: address.As4()}})
		case address.Is6() && question.Type == dnsmessage.TypeAAAA:
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: address.As16()}})
		}
	}
	return reply.Pack()
}

// look gives the addresses of `service.namespace` or `host.service.namespace`, and whether there is such a name.
func (s *server) look(name string) ([]netip.Addr, bool) {
	labels := strings.Split(strings.TrimSuffix(name, domain), ".")
	if !strings.HasSuffix(name, domain) || len(labels) < 2 || len(labels) > 3 {
		return nil, false
	}
	host, service, namespace := "", labels[len(labels)-2], labels[len(labels)-1]
	if len(labels) == 3 {
		host = labels[0]
	}
	found, err := s.services.Services(namespace).Get(service)
	if err != nil {
		return nil, false
	}
	if found.Spec.ClusterIP == v1.ClusterIPNone || host != "" {
		addresses := s.endpoints(namespace, service, host)
		return addresses, host == "" || len(addresses) > 0
	}
	var addresses []netip.Addr
	for _, text := range found.Spec.ClusterIPs {
		if address, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, address)
		}
	}
	return addresses, true
}

// endpoints are the ready ones of a Service, or the one of them with the given host name.
func (s *server) endpoints(namespace, service, host string) []netip.Addr {
	var found []netip.Addr
	slices, err := s.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service}))
	if err != nil {
		return nil
	}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			named := host == "" || endpoint.Hostname != nil && *endpoint.Hostname == host
			if !ready || !named {
				continue
			}
			for _, text := range endpoint.Addresses {
				if address, err := netip.ParseAddr(text); err == nil {
					found = append(found, address)
				}
			}
		}
	}
	return found
}

// The pods' network: each pod has a network namespace with one link to this machine, which routes between them. So every
// packet between pods, or to a Service, passes the machine's packet filter, where kube-proxy has its rules.
package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

type network struct {
	node string
	// gateways are this machine's addresses, one of each family, in the order of the ranges.
	gateways []netip.Addr

	mu    sync.Mutex
	last  []netip.Addr
	all   []netip.Prefix
	count int
}

// link is one pod's place in the network.
type link struct {
	// namespace is the file of the network namespace, which `ip netns` calls name.
	name, namespace string
	// addresses: one of each family; the first is the one that is asked for probes.
	addresses []string
}

// Both ends of a link have the same link-local addresses as those of every other link: IPv6 routes lead through them.
const (
	outerLinkLocal = "fe80::1"
	innerLinkLocal = "fe80::2"
)

func newNetwork(node string, podCIDRs []string, gateways []netip.Addr) (*network, error) {
	n := &network{node: node}
	for _, text := range podCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		of := slices.IndexFunc(gateways, func(gateway netip.Addr) bool { return gateway.Is4() == prefix.Addr().Is4() })
		if of < 0 {
			return nil, fmt.Errorf("no gateway for %s", prefix)
		}
		n.all, n.last, n.gateways = append(n.all, prefix), append(n.last, prefix.Addr()), append(n.gateways, gateways[of])
	}
	return n, nil
}

// attach makes a network namespace with an address of each of the node's ranges.
func (n *network) attach() (*link, error) {
	addresses, count, err := n.next()
	if err != nil {
		return nil, err
	}
	// At most 15 characters: the kernel's limit for the name of a link.
	name := fmt.Sprintf("p%s-%d", strings.TrimPrefix(n.node, "node-"), count)
	outside := []string{
		"netns add " + name,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", name, name),
		fmt.Sprintf("link set %s addrgenmode none up", name),
		fmt.Sprintf("addr add %s/64 dev %s nodad", outerLinkLocal, name),
	}
	inside := []string{
		"link set lo up",
		"link set eth0 addrgenmode none up",
		fmt.Sprintf("addr add %s/64 dev eth0 nodad", innerLinkLocal),
	}
	for i, address := range addresses {
		outside = append(outside, fmt.Sprintf("route add %s dev %s src %s", address, name, n.gateways[i]))
		inside = append(inside, fmt.Sprintf("addr add %s/%d dev eth0 nodad", address, address.BitLen()))
		via := outerLinkLocal
		if address.Is4() {
			via = n.gateways[i].String()
			inside = append(inside, fmt.Sprintf("route add %s dev eth0", via))
		}
		inside = append(inside, fmt.Sprintf("route add default via %s dev eth0", via))
	}
	if err := ip(nil, outside); err != nil {
		return nil, err
	}
	if err := ip([]string{"-n", name}, inside); err != nil {
		return nil, err
	}
	made := &link{name: name, namespace: "/run/netns/" + name}
	for _, address := range addresses {
		made.addresses = append(made.addresses, address.String())
	}
	return made, nil
}

// next hands out the addresses of the ranges once each: a client that still writes to the address of a pod that is gone
// must not reach another pod.
func (n *network) next() ([]netip.Addr, int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, prefix := range n.all {
		n.last[i] = n.last[i].Next()
		if !prefix.Contains(n.last[i].Next()) {
			return nil, 0, fmt.Errorf("all addresses of %s were handed out", prefix)
		}
	}
	n.count++
	return slices.Clone(n.last), n.count, nil
}

// address is the first one: the family that the cluster prefers.
func (l *link) address() string {
	return l.addresses[0]
}

// detach removes the namespace, and with it the link, once no process is left in it.
func (l *link) detach() error {
	return ip(nil, []string{"netns del " + l.name})
}

func ip(options []string, commands []string) error {
	command := exec.Command("ip", append(options, "-batch", "-")...)
	command.Stdin = strings.NewReader(strings.Join(commands, "\n"))
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return nil
}

// The files by which a pod knows its own name and asks for others.
package main

import (
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// clusterDomain is what Services' names end in.
const clusterDomain = "cluster.local"

func (w *worker) writeNames() error {
	pod := w.latest()
	hosts := []string{"127.0.0.1 localhost", "::1 localhost"}
	for _, address := range w.link.addresses {
		hosts = append(hosts, address+" "+pod.Name)
	}
	for _, alias := range pod.Spec.HostAliases {
		hosts = append(hosts, alias.IP+" "+strings.Join(alias.Hostnames, " "))
	}
	files := map[string][]string{
		"hosts":       hosts,
		"hostname":    {pod.Name},
		"resolv.conf": w.resolverLines(pod),
	}
	for name, lines := range files {
		path := filepath.Join(w.folder, name)
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) resolverLines(pod *v1.Pod) []string {
	var servers, searches []string
	options := []string{}
	if pod.Spec.DNSPolicy != v1.DNSNone {
		servers = []string{w.settings.resolver}
		services := "svc." + clusterDomain
		searches = []string{pod.Namespace + "." + services, services, clusterDomain}
		options = []string{"ndots:5"}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		servers = append(servers, own.Nameservers...)
		searches = append(searches, own.Searches...)
		for _, option := range own.Options {
			text := option.Name
			if option.Value != nil {
				text += ":" + *option.Value
			}
			options = append(options, text)
		}
	}
	var lines []string
	for _, server := range servers {
		lines = append(lines, "nameserver "+server)
	}
	if len(searches) > 0 {
		lines = append(lines, "search "+strings.Join(searches, " "))
	}
	if len(options) > 0 {
		lines = append(lines, "options "+strings.Join(options, " "))
	}
	return lines
}

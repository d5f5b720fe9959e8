// A container's environment: the image's variables, those of Services, envFrom, then env, each able to name earlier ones.
package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiresource "k8s.io/kubernetes/pkg/api/v1/resource"
	podshelper "k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// environment gives the variables as a map, for expansion in arguments.
func (w *worker) environment(ctx context.Context, container *v1.Container) (map[string]string, error) {
	pod := w.latest()
	found := map[string]string{}
	linked, err := w.services.environment(pod)
	if err != nil {
		return nil, err
	}
	for _, variable := range linked {
		found[variable.Name] = variable.Value
	}
	for _, source := range container.EnvFrom {
		values, err := w.sourceOfAll(ctx, pod, &source)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			found[source.Prefix+name] = value
		}
	}
	own := map[string]string{}
	for _, variable := range container.Env {
		value := expansion.Expand(variable.Value, expansion.MappingFuncFor(own, found))
		if variable.ValueFrom != nil {
			var there bool
			if value, there, err = w.sourceOfOne(ctx, pod, container, variable.ValueFrom); err != nil {
				return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
			}
			if !there {
				continue
			}
		}
		own[variable.Name] = value
	}
	maps.Copy(found, own)
	return found, nil
}

func (w *worker) sourceOfAll(ctx context.Context, pod *v1.Pod, source *v1.EnvFromSource) (map[string]string, error) {
	switch {
	case source.ConfigMapRef != nil:
		found, err := w.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, source.ConfigMapRef.Name, meta.GetOptions{})
		if isAbsent(err, source.ConfigMapRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return found.Data, nil
	case source.SecretRef != nil:
		found, err := w.client.CoreV1().Secrets(pod.Namespace).Get(ctx, source.SecretRef.Name, meta.GetOptions{})
		if isAbsent(err, source.SecretRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return asText(found.Data), nil
	}
	return nil, fmt.Errorf("this kind of envFrom is not supported")
}

// sourceOfOne reads one value. It is absent, without an error, where an optional source lacks it.
func (w *worker) sourceOfOne(ctx context.Context, pod *v1.Pod, container *v1.Container, source *v1.EnvVarSource) (string, bool, error) {
	switch {
	case source.FieldRef != nil:
		value, err := w.field(pod, source.FieldRef)
		return value, true, err
	case source.ResourceFieldRef != nil:
		value, err := resourceField(pod, container, source.ResourceFieldRef)
		return value, true, err
	case source.ConfigMapKeyRef != nil:
		reference := source.ConfigMapKeyRef
		found, err := w.client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, reference.Name, meta.GetOptions{})
		if err != nil {
			return "", false, unlessAbsent(err, reference.Optional)
		}
		return pick(found.Data, reference.Key, "ConfigMap "+reference.Name, reference.Optional)
	case source.SecretKeyRef != nil:
		reference := source.SecretKeyRef
		found, err := w.client.CoreV1().Secrets(pod.Namespace).Get(ctx, reference.Name, meta.GetOptions{})
		if err != nil {
			return "", false, unlessAbsent(err, reference.Optional)
		}
		return pick(asText(found.Data), reference.Key, "Secret "+reference.Name, reference.Optional)
	}
	return "", false, fmt.Errorf("this kind of valueFrom is not supported")
}

// field is a field of the pod, some of which only the kubelet knows.
func (w *worker) field(pod *v1.Pod, reference *v1.ObjectFieldSelector) (string, error) {
	path, _, err := podshelper.ConvertDownwardAPIFieldLabel(reference.APIVersion, reference.FieldPath, "")
	if err != nil {
		return "", err
	}
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return w.settings.addresses[0], nil
	case "status.hostIPs":
		return strings.Join(w.settings.addresses, ","), nil
	case "status.podIP":
		return w.link.address(), nil
	case "status.podIPs":
		return strings.Join(w.link.addresses, ","), nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

func resourceField(pod *v1.Pod, container *v1.Container, reference *v1.ResourceFieldSelector) (string, error) {
	if reference.ContainerName != "" {
		return apiresource.ExtractResourceValueByContainerName(reference, pod, reference.ContainerName)
	}
	return apiresource.ExtractContainerResourceValue(reference, container)
}

func pick(data map[string]string, key, holder string, optional *bool) (string, bool, error) {
	value, there := data[key]
	if !there && !(optional != nil && *optional) {
		return "", false, fmt.Errorf("%s has no key %s", holder, key)
	}
	return value, there, nil
}

func isAbsent(err error, optional *bool) bool {
	return errors.IsNotFound(err) && optional != nil && *optional
}

func unlessAbsent(err error, optional *bool) error {
	if isAbsent(err, optional) {
		return nil
	}
	return err
}

func asText(data map[string][]byte) map[string]string {
	text := map[string]string{}
	for name, value := range data {
		text[name] = string(value)
	}
	return text
}

// lines writes the variables as a process gets them.
func lines(environment map[string]string) []string {
	var written []string
	for _, name := range slices.Sorted(maps.Keys(environment)) {
		written = append(written, name+"="+environment[name])
	}
	return written
}

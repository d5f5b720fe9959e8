// The files of volumes that come from the API: ConfigMaps, Secrets, fields of the pod, tokens, and all of them together.
package main

import (
	"context"
	"fmt"
	"maps"

	authentication "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

type payload = map[string]volumeutil.FileProjection

func (w *worker) payload(ctx context.Context, volume *v1.Volume) (payload, error) {
	switch {
	case volume.ConfigMap != nil:
		source := volume.ConfigMap
		return w.configMap(ctx, source.Name, source.Items, source.DefaultMode, source.Optional)
	case volume.Secret != nil:
		source := volume.Secret
		return w.secret(ctx, source.SecretName, source.Items, source.DefaultMode, source.Optional)
	case volume.DownwardAPI != nil:
		return w.fields(volume.DownwardAPI.Items, volume.DownwardAPI.DefaultMode)
	case volume.Projected != nil:
		all := payload{}
		for _, source := range volume.Projected.Sources {
			part, err := w.projection(ctx, &source, volume.Projected.DefaultMode)
			if err != nil {
				return nil, err
			}
			maps.Copy(all, part)
		}
		return all, nil
	}
	return nil, fmt.Errorf("this kind of volume is not supported")
}

func (w *worker) projection(ctx context.Context, source *v1.VolumeProjection, mode *int32) (payload, error) {
	switch {
	case source.ConfigMap != nil:
		return w.configMap(ctx, source.ConfigMap.Name, source.ConfigMap.Items, mode, source.ConfigMap.Optional)
	case source.Secret != nil:
		return w.secret(ctx, source.Secret.Name, source.Secret.Items, mode, source.Secret.Optional)
	case source.DownwardAPI != nil:
		return w.fields(source.DownwardAPI.Items, mode)
	case source.ServiceAccountToken != nil:
		return w.token(ctx, source.ServiceAccountToken, mode)
	}
	return nil, fmt.Errorf("this kind of projection is not supported")
}

func (w *worker) configMap(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	found, err := w.client.CoreV1().ConfigMaps(w.latest().Namespace).Get(ctx, name, meta.GetOptions{})
	if isAbsent(err, optional) {
		found, err = &v1.ConfigMap{}, nil
	}
	if err != nil {
		return nil, err
	}
	return configmap.MakePayload(items, found, mode, optional != nil && *optional)
}

func (w *worker) secret(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (payload, error) {
	found, err := w.client.CoreV1().Secrets(w.latest().Namespace).Get(ctx, name, meta.GetOptions{})
	if isAbsent(err, optional) {
		found, err = &v1.Secret{}, nil
	}
	if err != nil {
		return nil, err
	}
	return secret.MakePayload(items, found, mode, optional != nil && *optional)
}

func (w *worker) fields(items []v1.DownwardAPIVolumeFile, mode *int32) (payload, error) {
	found := payload{}
	for _, item := range items {
		var value string
		var err error
		if item.FieldRef != nil {
			value, err = w.field(w.latest(), item.FieldRef)
		} else {
			value, err = resourceField(w.latest(), nil, item.ResourceFieldRef)
		}
		if err != nil {
			return nil, err
		}
		file := volumeutil.FileProjection{Data: []byte(value), Mode: *mode}
		if item.Mode != nil {
			file.Mode = *item.Mode
		}
		found[item.Path] = file
	}
	return found, nil
}

func (w *worker) token(ctx context.Context, source *v1.ServiceAccountTokenProjection, mode *int32) (payload, error) {
	pod := w.latest()
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	accounts := w.client.CoreV1().ServiceAccounts(pod.Namespace)
	made, err := accounts.CreateToken(ctx, pod.Spec.ServiceAccountName, request, meta.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return payload{source.Path: {Data: []byte(made.Status.Token), Mode: *mode}}, nil
}

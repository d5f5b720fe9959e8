{{/* Names, labels and metadata of every object. Does not validate values. */}}

{{- define "tickgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tickgate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "tickgate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tickgate.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* Selector labels of the pods of a component. Takes the context and the component. */}}
{{- define "tickgate.selector" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: {{ include "tickgate.name" $context }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tickgate.selectorLabels" -}}
{{ include "tickgate.selector" (list . "gateway") }}
{{- end -}}

{{/*
The metadata of an object. Takes a dict with `context` and, if they differ from the gateway's, `name` or `suffix`,
`component`, `labels` and `annotations`. Labels of the chart override those in the values.
*/}}
{{- define "tickgate.metadata" -}}
{{- $context := .context -}}
{{- $chart := dict
  "helm.sh/chart" (printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_")
  "app.kubernetes.io/version" $context.Chart.AppVersion
  "app.kubernetes.io/part-of" "tickgate"
  "app.kubernetes.io/managed-by" $context.Release.Service -}}
{{- $selector := include "tickgate.selector" (list $context (default "gateway" .component)) | fromYaml -}}
name: {{ default (printf "%s%s" (include "tickgate.fullname" $context) (default "" .suffix)) .name }}
namespace: {{ include "tickgate.namespace" $context }}
labels:
  {{- mergeOverwrite dict $context.Values.commonLabels (default dict .labels) $chart $selector | toYaml | nindent 2 }}
{{- with mergeOverwrite dict $context.Values.commonAnnotations (default dict .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The labels of a pod. Takes the context, the component and additional labels. */}}
{{- define "tickgate.podLabels" -}}
{{- $context := index . 0 -}}
{{- $selector := include "tickgate.selector" (list $context (index . 1)) | fromYaml -}}
{{ mergeOverwrite dict $context.Values.commonLabels (index . 2) $selector | toYaml }}
{{- end -}}

{{- define "tickgate.serviceAccountName" -}}
{{- default (ternary (include "tickgate.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* An image with the registry set in the values. Takes the context and the image. */}}
{{- define "tickgate.inRegistry" -}}
{{- $registry := (index . 0).Values.global.imageRegistry -}}
{{- $image := index . 1 -}}
{{- if $registry -}}
{{- $host := splitList "/" $image | first -}}
{{- $path := $image -}}
{{- if and (contains "/" $image) (or (contains "." $host) (contains ":" $host) (eq $host "localhost")) -}}
{{- $path = trimPrefix (printf "%s/" $host) $image -}}
{{- end -}}
{{ trimSuffix "/" $registry }}/{{ $path }}
{{- else -}}
{{ $image }}
{{- end -}}
{{- end -}}

{{- define "tickgate.image" -}}
{{- $image := include "tickgate.inRegistry" (list . .Values.image.repository) -}}
{{- if .Values.image.digest -}}
{{ $image }}@{{ .Values.image.digest }}
{{- else -}}
{{ $image }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The Secret that holds the token secrets and the API keys. */}}
{{- define "tickgate.authSecretName" -}}
{{- default (printf "%s-auth" (include "tickgate.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{/* The Secret that holds the Redis URL; empty if the URL is in the configuration, or there is no Redis. */}}
{{- define "tickgate.redisSecretName" -}}
{{- if .Values.redis.existingSecret -}}
{{- .Values.redis.existingSecret -}}
{{- else if .Values.redis.embedded.enabled -}}
{{- printf "%s-redis" (include "tickgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/*
Whether `lookup` queries a cluster: "true" or nothing. The release's namespace exists unless it is being created, and
creating it requires rights that also include reading kube-system.
*/}}
{{- define "tickgate.hasCluster" -}}
{{- if or (lookup "v1" "Namespace" "" .Release.Namespace) (lookup "v1" "Namespace" "" "kube-system") -}}true{{- end -}}
{{- end -}}

{{/* The IP families of a Service, if set in the values. */}}
{{- define "tickgate.families" -}}
{{- with .Values.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

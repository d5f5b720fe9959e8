{{/* Parts shared by all pods, and the durations of a drain and a rollout. Defines no objects. */}}

{{/* Seconds from the deletion of a replica until its last client is closed. */}}
{{- define "tickgate.drainSeconds" -}}
{{- with .Values.drain -}}
{{- add (int .preStopSeconds) (int .delaySeconds) (int .spreadSeconds) -}}
{{- end -}}
{{- end -}}

{{/* Seconds between SIGTERM and SIGKILL: the duration of the drain, or the requested value if it is long enough. */}}
{{- define "tickgate.gracePeriod" -}}
{{- $drain := .Values.drain -}}
{{- $needed := add (include "tickgate.drainSeconds" .) (int $drain.flushSeconds) | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $asked -}}
{{- $needed -}}
{{- else if lt (int $asked) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but the drain needs preStopSeconds %d + delaySeconds %d + spreadSeconds %d + flushSeconds %d = %d: a replica would be killed %d s before the end of its drain. Raise it to %d, leave it empty to compute it, or shorten the drain." (int $asked) (int $drain.preStopSeconds) (int $drain.delaySeconds) (int $drain.spreadSeconds) (int $drain.flushSeconds) $needed (sub $needed (int $asked) | int) $needed) -}}
{{- else -}}
{{- int $asked -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a new replica must stay ready. A Deployment does not wait until an old pod has ended, only for this time. */}}
{{- define "tickgate.minReadySeconds" -}}
{{- if kindIs "invalid" .Values.minReadySeconds -}}
{{- include "tickgate.drainSeconds" . -}}
{{- else -}}
{{- int .Values.minReadySeconds -}}
{{- end -}}
{{- end -}}

{{/* Minimum and maximum number of replicas. */}}
{{- define "tickgate.minReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.minReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.minReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}
{{- define "tickgate.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}

{{/*
The number of replicas to write into the Deployment. With an autoscaler it is the current number, because Helm resets an
omitted field to its default, one replica. Without a cluster to query nothing is written, because every rendering would
undo the autoscaler's change.
*/}}
{{- define "tickgate.replicas" -}}
{{- if not (or .Values.autoscaling.enabled .Values.keda.enabled) -}}
{{ .Values.replicaCount }}
{{- else -}}
{{- $found := lookup "apps/v1" "Deployment" (include "tickgate.namespace" .) (include "tickgate.fullname" .) -}}
{{- if $found -}}
{{ int $found.spec.replicas }}
{{- else if include "tickgate.hasCluster" . -}}
{{ include "tickgate.minReplicas" . }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A map without the keys whose value is null: null omits a default. */}}
{{- define "tickgate.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- with $kept -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* Scheduling, DNS and security settings of every pod of the chart. */}}
{{- define "tickgate.podSettings" -}}
serviceAccountName: {{ include "tickgate.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with concat .Values.global.imagePullSecrets .Values.imagePullSecrets | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "tickgate.withoutNulls" .Values.podSecurityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tickgate.containerSecurity" -}}
{{- with include "tickgate.withoutNulls" .Values.securityContext }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The modes of mounted Secrets: readable by the pod's group if it has one, otherwise by every user of the pod. */}}
{{- define "tickgate.secretMode" -}}
{{- if (.Values.podSecurityContext).fsGroup -}}
288  # 0440
{{- else -}}
292  # 0444
{{- end -}}
{{- end -}}

{{/* The environment variables shared by the gateway's container and the smoke test. */}}
{{- define "tickgate.environment" -}}
env:
  - name: TICKGATE__SERVER__NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
{{- with .Values.extraEnv }}
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe of the client port. Takes the context, the path and the numbers. */}}
{{- define "tickgate.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: client
  {{- if (index . 0).Values.tls.clients.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{ toYaml (index . 2) }}
{{- end -}}

{{/* The file of the authority that the smoke test trusts; empty for public authorities, and without TLS. */}}
{{- define "tickgate.smokeAuthority" -}}
{{- with .Values.tls -}}
{{- if and .keys.authority (or .clients.existingSecret .operations.existingSecret) -}}
{{- include "tickgate.secretFile" (list (ternary "clients-tls" "operations-tls" (ne .clients.existingSecret "")) .keys.authority) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Spread constraints; by default each selects the replicas of one rollout. */}}
{{- define "tickgate.spread" -}}
{{- $selector := dict "matchLabels" (include "tickgate.selectorLabels" . | fromYaml) -}}
{{- range .Values.topologySpreadConstraints }}
{{- $filled := dict "maxSkew" 1 }}
{{- if not .labelSelector }}
{{- $_ := set $filled "labelSelector" $selector }}
{{- $_ := set $filled "matchLabelKeys" (list "pod-template-hash") }}
{{- end }}
- {{ mergeOverwrite $filled . | toYaml | nindent 2 | trim }}
{{- end }}
{{- end -}}

{{/* What pods have in common, and the seconds of a drain and of a rollout. Never names an object. */}}

{{/* Seconds from the deletion of a replica until its last client is closed. */}}
{{- define "tickgate.drainSeconds" -}}
{{- with .Values.drain -}}
{{- add (int .preStopSeconds) (int .delaySeconds) (int .spreadSeconds) -}}
{{- end -}}
{{- end -}}

{{/* Seconds between SIGTERM and SIGKILL: what the drain needs, or what was asked for if that is enough. */}}
{{- define "tickgate.gracePeriod" -}}
{{- $drain := .Values.drain -}}
{{- $needed := add (include "tickgate.drainSeconds" .) (int $drain.flushSeconds) | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $asked -}}
{{- $needed -}}
{{- else if lt (int $asked) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but the drain needs preStopSeconds %d + delaySeconds %d + spreadSeconds %d + flushSeconds %d = %d: a replica would be killed with %d s of its drain left. Raise it to %d, leave it empty to have it computed, or shorten the drain." (int $asked) (int $drain.preStopSeconds) (int $drain.delaySeconds) (int $drain.spreadSeconds) (int $drain.flushSeconds) $needed (sub $needed (int $asked) | int) $needed) -}}
{{- else -}}
{{- int $asked -}}
{{- end -}}
{{- end -}}

{{/* Seconds that a new replica must stay ready. A Deployment does not wait for the end of an old pod, only for these. */}}
{{- define "tickgate.minReadySeconds" -}}
{{- if kindIs "invalid" .Values.minReadySeconds -}}
{{- include "tickgate.drainSeconds" . -}}
{{- else -}}
{{- int .Values.minReadySeconds -}}
{{- end -}}
{{- end -}}

{{/* Fewest and most replicas that the values allow. */}}
{{- define "tickgate.minReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.minReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.minReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}
{{- define "tickgate.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}

{{/*
The count to write into the Deployment. With an autoscaler it is the present one: Helm takes a field that is left out
back to its default, which is one replica. Without a cluster to ask nothing is written, since every rendering would
undo what the autoscaler did.
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

{{/* A map without the keys whose value is null: those leave a default out. */}}
{{- define "tickgate.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $kept $key $value -}}{{- end -}}
{{- end -}}
{{- with $kept -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* What every pod of the chart has: where it may run, how it finds names, what it may do. */}}
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

{{/* The modes of mounted Secrets: for the pod's group where it has one, otherwise for its one user, whoever that is. */}}
{{- define "tickgate.secretMode" -}}
{{- if (.Values.podSecurityContext).fsGroup -}}
288  # 0440
{{- else -}}
292  # 0444
{{- end -}}
{{- end -}}

{{/* The variables of the gateway's container, which the smoke test shares. */}}
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

{{/* A probe of the clients' port. Takes the context, the path and the numbers. */}}
{{- define "tickgate.probe" -}}
httpGet:
  path: {{ index . 1 }}
  port: client
  {{- if (index . 0).Values.tls.clients.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{ toYaml (index . 2) }}
{{- end -}}

{{/* The file of the authority that the smoke test trusts; empty for public ones, and where nothing has TLS. */}}
{{- define "tickgate.smokeAuthority" -}}
{{- with .Values.tls -}}
{{- if and .keys.authority (or .clients.existingSecret .operations.existingSecret) -}}
{{- include "tickgate.secretFile" (list (ternary "clients-tls" "operations-tls" (ne .clients.existingSecret "")) .keys.authority) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Spread constraints, each with what selects the replicas of one rollout unless it says otherwise. */}}
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

{{/* Names, labels and the checks that a schema cannot express. Never renders a resource of its own. */}}

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

{{/* What every object carries. */}}
{{- define "tickgate.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "tickgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tickgate
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "tickgate.labels" -}}
{{ include "tickgate.commonLabels" . }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "tickgate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tickgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "tickgate.redis.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tickgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "tickgate.testLabels" -}}
app.kubernetes.io/name: {{ include "tickgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: smoke-test
{{- end -}}

{{- define "tickgate.serviceAccountName" -}}
{{- default (include "tickgate.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tickgate.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* The Secret that holds the token secrets and the API keys. */}}
{{- define "tickgate.authSecretName" -}}
{{- default (printf "%s-auth" (include "tickgate.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{/* The Secret that holds the Redis URL; empty when the URL stands in the configuration, or there is no Redis. */}}
{{- define "tickgate.redisSecretName" -}}
{{- if .Values.redis.existingSecret -}}
{{- .Values.redis.existingSecret -}}
{{- else if .Values.redis.embedded.enabled -}}
{{- printf "%s-redis" (include "tickgate.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Seconds between SIGTERM and SIGKILL: what the drain needs, or what was asked for if that is enough. */}}
{{- define "tickgate.gracePeriod" -}}
{{- $delay := int .Values.drain.delaySeconds -}}
{{- $spread := int .Values.drain.spreadSeconds -}}
{{- $flush := int .Values.drain.flushSeconds -}}
{{- $preStop := int .Values.drain.preStopSeconds -}}
{{- $needed := add $preStop $delay $spread $flush | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $asked -}}
{{- $needed -}}
{{- else if lt (int $asked) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, but the drain needs preStopSeconds %d + delaySeconds %d + spreadSeconds %d + flushSeconds %d = %d: a replica would be killed with %d s of its drain left. Raise it to %d, leave it empty to have it computed, or shorten the drain." (int $asked) $preStop $delay $spread $flush $needed (sub $needed (int $asked) | int) $needed) -}}
{{- else -}}
{{- int $asked -}}
{{- end -}}
{{- end -}}

{{/* Fewest and most replicas that the values allow. */}}
{{- define "tickgate.minReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.minReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.minReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}
{{- define "tickgate.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else if .Values.keda.enabled }}{{ int .Values.keda.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end -}}
{{- end -}}

{{/* Combinations that cannot work. Included once, by the deployment. */}}
{{- define "tickgate.check" -}}
{{- $ways := list -}}
{{- with .Values.redis }}
{{- if .url }}{{ $ways = append $ways "redis.url" }}{{ end }}
{{- if .existingSecret }}{{ $ways = append $ways "redis.existingSecret" }}{{ end }}
{{- if .embedded.enabled }}{{ $ways = append $ways "redis.embedded.enabled" }}{{ end }}
{{- end }}
{{- if gt (len $ways) 1 -}}
{{- fail (printf "%s are both set: choose one Redis." (join " and " $ways)) -}}
{{- end -}}
{{- if and (not $ways) (gt (int (include "tickgate.maxReplicas" .)) 1) -}}
{{- fail (printf "%s replicas and no Redis: replicas hear each other through Redis only. Set redis.existingSecret (a Secret in namespace %s with the key %q holding redis://user:password@host:6379), redis.url (without a password), or redis.embedded.enabled=true for a trial. A single replica (replicaCount=1) runs without." (include "tickgate.maxReplicas" .) .Release.Namespace .Values.redis.secretKey) -}}
{{- end -}}
{{- if and (not .Values.auth.existingSecret) (not .Values.auth.generate) -}}
{{- fail (printf "no Secret for tokens and API keys: set auth.existingSecret to a Secret in namespace %s with the keys %q and %q (each at least 32 bytes), or auth.generate=true to have one made at the first install." .Release.Namespace .Values.auth.keys.tokens .Values.auth.keys.api) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled are both set: two autoscalers would fight over one Deployment. Choose one." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilizationPercentage) (not .Values.autoscaling.targetConnections) -}}
{{- fail "autoscaling.enabled without a target: set autoscaling.targetCPUUtilizationPercentage, autoscaling.targetConnections, or both." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled without a host: set ingress.hosts." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled without a Gateway: set httpRoute.parentRefs." -}}
{{- end -}}
{{- end -}}

{{/* A value as TOML. YAML numbers arrive as floats; whole ones are written as integers. */}}
{{- define "tickgate.tomlValue" -}}
{{- if kindIs "string" . -}}{{ . | toJson }}
{{- else if kindIs "bool" . -}}{{ . }}
{{- else if kindIs "slice" . -}}[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "tickgate.tomlValue" $item }}{{ end }}]
{{- else if kindIs "map" . -}}{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ $key }} = {{ include "tickgate.tomlValue" (get $ $key) }}{{ end }} }
{{- else if eq (float64 .) (float64 (int64 .)) -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}

{{- define "tickgate.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "tickgate.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Up at once, down slowly: every replica taken away is a wave of reconnects. */}}
{{- define "tickgate.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - type: Percent
      value: 100
      periodSeconds: 30
    - type: Pods
      value: 2
      periodSeconds: 30
  selectPolicy: Max
scaleDown:
  stabilizationWindowSeconds: 1800
  policies:
    - type: Pods
      value: 1
      periodSeconds: 300
  selectPolicy: Min
{{- end -}}

{{/* What Prometheus scrapes, the same for both kinds of monitor. */}}
{{- define "tickgate.scrapeEndpoint" -}}
- port: ops
  path: /metrics
  interval: {{ .interval }}
  scrapeTimeout: {{ .scrapeTimeout }}
  honorLabels: false
  relabelings:
    # Rules and dashboard say job="tickgate", whatever the release is called.
    - action: replace
      targetLabel: job
      replacement: tickgate
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* The configuration file: what the chart fixes, then `config`, then `extraToml`. */}}
{{- define "tickgate.toml" -}}
{{- $fixed := dict
  "server" (dict "mode" "production" "listen" "0.0.0.0:8000" "ops_listen" "0.0.0.0:8001")
  "drain" (dict "delay" (printf "%ds" (int .Values.drain.delaySeconds)) "spread" (printf "%ds" (int .Values.drain.spreadSeconds)))
  "auth" (dict
    "hs256_secrets_file" (printf "%s/%s" (include "tickgate.secretDir" "auth") .Values.auth.keys.tokens)
    "api_keys_file" (printf "%s/%s" (include "tickgate.secretDir" "auth") .Values.auth.keys.api)) -}}
{{- if include "tickgate.redisSecretName" . -}}
{{- $_ := set $fixed "redis" (dict "url_file" (printf "%s/%s" (include "tickgate.secretDir" "redis") .Values.redis.secretKey)) -}}
{{- else if .Values.redis.url -}}
{{- $_ := set $fixed "redis" (dict "url" .Values.redis.url) -}}
{{- end -}}
{{- $all := mergeOverwrite (deepCopy .Values.config) $fixed -}}
{{- range $section := keys $all | sortAlpha }}
{{- with get $all $section }}
[{{ $section }}]
{{ range $key := keys . | sortAlpha -}}
{{ $key }} = {{ include "tickgate.tomlValue" (get (get $all $section) $key) }}
{{ end }}
{{- end }}
{{- end }}
{{- with .Values.extraToml }}
{{ . }}
{{- end }}
{{- end -}}

{{/*
Secrets come as files, so that no variable of the process shows them. The configuration and the mounts take the paths
from here. Whole Secrets are mounted, without `items`: where a key is missing, the gateway names the file and ends with
code 2, instead of a pod that waits for its volume.
*/}}
{{- define "tickgate.secretDir" -}}
/run/secrets/tickgate/{{ . }}
{{- end -}}

{{- define "tickgate.volumeMounts" -}}
- name: config
  mountPath: /etc/tickgate
  readOnly: true
- name: auth
  mountPath: {{ include "tickgate.secretDir" "auth" }}
  readOnly: true
{{- if include "tickgate.redisSecretName" . }}
- name: redis
  mountPath: {{ include "tickgate.secretDir" "redis" }}
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tickgate.volumes" -}}
- name: config
  configMap:
    name: {{ include "tickgate.fullname" . }}
- name: auth
  secret:
    secretName: {{ include "tickgate.authSecretName" . }}
    defaultMode: 288  # 0440
{{- with include "tickgate.redisSecretName" . }}
- name: redis
  secret:
    secretName: {{ . }}
    defaultMode: 288  # 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

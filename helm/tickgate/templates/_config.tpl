{{/* The gateway's configuration file, and the files named in it, which are mounted at the same paths. */}}

{{/* A value as TOML. YAML numbers arrive as floats; integral ones are written as integers. */}}
{{- define "tickgate.tomlValue" -}}
{{- if kindIs "string" . -}}{{ . | toJson }}
{{- else if kindIs "bool" . -}}{{ . }}
{{- else if kindIs "slice" . -}}[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "tickgate.tomlValue" $item }}{{ end }}]
{{- else if kindIs "map" . -}}{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ $key }} = {{ include "tickgate.tomlValue" (get $ $key) }}{{ end }} }
{{- else if eq (float64 .) (float64 (int64 .)) -}}{{ int64 . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}

{{/* The address that both listeners bind, in the form used before a port. */}}
{{- define "tickgate.listenHost" -}}
{{- $address := .Values.listenAddress -}}
{{- if not $address -}}
{{- $address = ternary "::" "0.0.0.0" (or (has "IPv6" .Values.ipFamilies) (hasSuffix "DualStack" .Values.ipFamilyPolicy)) -}}
{{- end -}}
{{- ternary (printf "[%s]" $address) $address (contains ":" $address) -}}
{{- end -}}

{{/*
Secrets are mounted as files, so that no environment variable exposes them. Whole Secrets are mounted, without `items`: if
a key is missing, the gateway names the file and exits with code 2, whereas with `items` the pod would wait for its volume.
*/}}
{{- define "tickgate.secretFile" -}}
/run/secrets/tickgate/{{ index . 0 }}/{{ index . 1 }}
{{- end -}}

{{/* What the chart writes into the configuration, by section. */}}
{{- define "tickgate.fixedConfig" -}}
{{- $listen := include "tickgate.listenHost" . -}}
server:
  mode: production
  listen: {{ printf "%s:8000" $listen | quote }}
  ops_listen: {{ printf "%s:8001" $listen | quote }}
  {{- if .Values.tls.clients.existingSecret }}
  tls:
    cert_file: {{ include "tickgate.secretFile" (list "clients-tls" .Values.tls.keys.certificate) }}
    key_file: {{ include "tickgate.secretFile" (list "clients-tls" .Values.tls.keys.privateKey) }}
  {{- end }}
  {{- if .Values.tls.operations.existingSecret }}
  ops_tls:
    cert_file: {{ include "tickgate.secretFile" (list "operations-tls" .Values.tls.keys.certificate) }}
    key_file: {{ include "tickgate.secretFile" (list "operations-tls" .Values.tls.keys.privateKey) }}
    {{- if .Values.tls.operations.clientCaSecret }}
    client_ca_file: {{ include "tickgate.secretFile" (list "publishers-ca" .Values.tls.keys.authority) }}
    {{- end }}
  {{- end }}
drain:
  delay: {{ int .Values.drain.delaySeconds }}s
  spread: {{ int .Values.drain.spreadSeconds }}s
auth:
  hs256_secrets_file: {{ include "tickgate.secretFile" (list "auth" .Values.auth.keys.tokens) }}
  api_keys_file: {{ include "tickgate.secretFile" (list "auth" .Values.auth.keys.api) }}
{{- if or (include "tickgate.redisSecretName" .) .Values.redis.url }}
redis:
  {{- if include "tickgate.redisSecretName" . }}
  url_file: {{ include "tickgate.secretFile" (list "redis" .Values.redis.secretKey) }}
  {{- else }}
  url: {{ .Values.redis.url | quote }}
  {{- end }}
  {{- if .Values.redis.tls.existingSecret }}
  ca_file: {{ include "tickgate.secretFile" (list "redis-ca" .Values.redis.tls.caKey) }}
  {{- end }}
  {{- if .Values.redis.tls.clientSecret }}
  client_cert_file: {{ include "tickgate.secretFile" (list "redis-client" .Values.tls.keys.certificate) }}
  client_key_file: {{ include "tickgate.secretFile" (list "redis-client" .Values.tls.keys.privateKey) }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The configuration file: `config`, overridden by the chart's own settings, then `extraToml`. */}}
{{- define "tickgate.toml" -}}
{{- $all := mergeOverwrite (deepCopy .Values.config) (include "tickgate.fixedConfig" . | fromYaml) -}}
{{- range $section := keys $all | sortAlpha }}
{{- with get $all $section }}
{{- if regexMatch (printf "(?m)^\\s*\\[\\s*%s\\s*\\]" $section) $.Values.extraToml }}
{{- fail (printf "extraToml has the section [%s], which the chart writes: a file may contain it only once. Set its keys in config.%s." $section $section) }}
{{- end }}
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

{{/* The Secrets to mount, by the folder's name. */}}
{{- define "tickgate.secrets" -}}
auth: {{ include "tickgate.authSecretName" . }}
{{- with include "tickgate.redisSecretName" . }}
redis: {{ . }}
{{- end }}
{{- with .Values.redis.tls.existingSecret }}
redis-ca: {{ . }}
{{- end }}
{{- with .Values.redis.tls.clientSecret }}
redis-client: {{ . }}
{{- end }}
{{- with .Values.tls.clients.existingSecret }}
clients-tls: {{ . }}
{{- end }}
{{- with .Values.tls.operations.existingSecret }}
operations-tls: {{ . }}
{{- end }}
{{- with .Values.tls.operations.clientCaSecret }}
publishers-ca: {{ . }}
{{- end }}
{{- end -}}

{{- define "tickgate.volumeMounts" -}}
- name: config
  mountPath: /etc/tickgate
  readOnly: true
{{- range $folder, $secret := include "tickgate.secrets" . | fromYaml }}
- name: {{ $folder }}
  mountPath: {{ include "tickgate.secretFile" (list $folder "") | trimSuffix "/" }}
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end -}}

{{- define "tickgate.volumes" -}}
- name: config
  configMap:
    name: {{ include "tickgate.fullname" . }}
{{- range $folder, $secret := include "tickgate.secrets" . | fromYaml }}
- name: {{ $folder }}
  secret:
    secretName: {{ $secret }}
    defaultMode: {{ include "tickgate.secretMode" $ }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end -}}

{{/* Combinations of values that cannot work, each refused with the reason. Included once, by the Deployment. */}}

{{- define "tickgate.check" -}}
{{- include "tickgate.checkRedis" . -}}
{{- include "tickgate.checkTls" . -}}
{{- include "tickgate.checkSecrets" . -}}
{{- include "tickgate.checkScaling" . -}}
{{- include "tickgate.checkRollout" . -}}
{{- include "tickgate.checkNetwork" . -}}
{{- include "tickgate.checkRoutes" . -}}
{{- include "tickgate.checkPod" . -}}
{{- include "tickgate.checkFiles" . -}}
{{- include "tickgate.checkMetrics" . -}}
{{- end -}}

{{- define "tickgate.checkRedis" -}}
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
{{- fail (printf "%s replicas and no Redis: replicas communicate only through Redis. Set redis.existingSecret (a Secret in namespace %s with the key %q holding redis://user:password@host:6379), redis.url (without a password), or redis.embedded.enabled=true for a trial. A single replica (replicaCount=1) needs no Redis." (include "tickgate.maxReplicas" .) (include "tickgate.namespace" .) .Values.redis.secretKey) -}}
{{- end -}}
{{- if and .Values.redis.embedded.enabled (has .Values.redis.secretKey (list "password" "auth.conf")) -}}
{{- fail (printf "redis.secretKey is %q, which is reserved for the embedded Redis: choose another." .Values.redis.secretKey) -}}
{{- end -}}
{{- with .Values.redis.embedded -}}
{{- $limit := (.resources.limits).memory -}}
{{- if and .enabled $limit (gt (mul 3 (include "tickgate.bytes" .maxmemory | int64)) (mul 2 (include "tickgate.bytes" $limit | int64))) -}}
{{- fail (printf "redis.embedded.maxmemory is %s, more than two thirds of redis.embedded.resources.limits.memory %s: Redis needs more memory while it rewrites its file, and the cluster would kill it." .maxmemory (toString $limit)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.redis.tls.existingSecret -}}
{{- if .Values.redis.embedded.enabled -}}
{{- fail "redis.tls.existingSecret and redis.embedded.enabled are both set: the embedded Redis has no TLS." -}}
{{- end -}}
{{- if not $ways -}}
{{- fail "redis.tls.existingSecret without a Redis: set redis.existingSecret or redis.url." -}}
{{- end -}}
{{- if and .Values.redis.url (not (hasPrefix "rediss://" .Values.redis.url)) -}}
{{- fail (printf "redis.tls.existingSecret is set, but redis.url is %s, which does not use TLS: it must begin with rediss://." .Values.redis.url) -}}
{{- end -}}
{{- if (.Values.config.redis).ca_file -}}
{{- fail "redis.tls.existingSecret and config.redis.ca_file are both set: choose one." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkTls" -}}
{{- with .Values.redis -}}
{{- if .tls.clientSecret -}}
{{- if .embedded.enabled -}}
{{- fail "redis.tls.clientSecret and redis.embedded.enabled are both set: the embedded Redis has no TLS." -}}
{{- end -}}
{{- if and .url (not (hasPrefix "rediss://" .url)) -}}
{{- fail (printf "redis.tls.clientSecret is set, but redis.url is %s, which does not use TLS: it must begin with rediss://." .url) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.tls -}}
{{- if and .operations.clientCaSecret (not .operations.existingSecret) -}}
{{- fail "tls.operations.clientCaSecret without tls.operations.existingSecret: a port without TLS receives no client certificates." -}}
{{- end -}}
{{- if and .operations.clientCaSecret (not .keys.authority) -}}
{{- fail "tls.operations.clientCaSecret without tls.keys.authority: set it to the key of the authority in that Secret." -}}
{{- end -}}
{{- if eq .keys.certificate .keys.privateKey -}}
{{- fail (printf "tls.keys.certificate and tls.keys.privateKey are both %q: they must differ." .keys.certificate) -}}
{{- end -}}
{{- if and .operations.existingSecret $.Values.metrics.monitor.enabled (not $.Values.metrics.monitor.tlsConfig) -}}
{{- fail "tls.operations.existingSecret and metrics.monitor.enabled without metrics.monitor.tlsConfig: Prometheus connects to replicas by IP address, which certificates do not contain. Set ca and serverName, or insecureSkipVerify." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkSecrets" -}}
{{- if and (not .Values.auth.existingSecret) (not .Values.auth.generate) -}}
{{- fail (printf "no Secret for tokens and API keys: set auth.existingSecret to a Secret in namespace %s with the keys %q and %q (each at least 32 bytes), or auth.generate=true to create one at the first install." (include "tickgate.namespace" .) .Values.auth.keys.tokens .Values.auth.keys.api) -}}
{{- end -}}
{{- if eq .Values.auth.keys.tokens .Values.auth.keys.api -}}
{{- fail (printf "auth.keys.tokens and auth.keys.api are both %q: they must differ." .Values.auth.keys.api) -}}
{{- end -}}
{{- if or (not .Values.auth.existingSecret) .Values.redis.embedded.enabled -}}
{{- if not (include "tickgate.hasCluster" .) -}}
{{- $needed := list -}}
{{- if not .Values.auth.existingSecret -}}
{{- $needed = append $needed (printf "set auth.existingSecret to a Secret with the keys %q and %q" .Values.auth.keys.tokens .Values.auth.keys.api) -}}
{{- end -}}
{{- if .Values.redis.embedded.enabled -}}
{{- $needed = append $needed (printf "set redis.existingSecret (key %q) instead of redis.embedded.enabled" .Values.redis.secretKey) -}}
{{- end -}}
{{- fail (printf "this renderer does not query a cluster (helm template, --dry-run=client, Argo CD): a generated Secret would change at every rendering. In namespace %s, %s. helm install, helm upgrade and --dry-run=server keep existing Secrets." (include "tickgate.namespace" .) (join ", and " $needed)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkScaling" -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled are both set: two autoscalers would fight over one Deployment. Choose one." -}}
{{- end -}}
{{- range $name := list "autoscaling" "keda" -}}
{{- $scaler := get $.Values $name -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "%s.minReplicas is %d, %s.maxReplicas %d: the minimum must not exceed the maximum. The cluster would refuse the autoscaler." $name (int $scaler.minReplicas) $name (int $scaler.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (not .targetCPUUtilizationPercentage) (not .targetMemoryUtilizationPercentage) (not .targetConnections) (not .metrics) -}}
{{- fail "autoscaling.enabled without a target: set autoscaling.targetCPUUtilizationPercentage, autoscaling.targetMemoryUtilizationPercentage, autoscaling.targetConnections or autoscaling.metrics." -}}
{{- end -}}
{{- end -}}
{{- /* 50000 is the default in config/default.toml. */ -}}
{{- $connections := ((.Values.config).limits).connections_max | default 50000 | int64 -}}
{{- range $name := list "autoscaling" "keda" -}}
{{- $scaler := get $.Values $name -}}
{{- if and $scaler.enabled (ge (int64 $scaler.targetConnections) $connections) -}}
{{- fail (printf "%s.targetConnections is %d, but a replica accepts no more than %d (config.limits.connections_max): the autoscaler would never add a replica. Leave room for connections that arrive before a new replica is ready." $name (int64 $scaler.targetConnections) $connections) -}}
{{- end -}}
{{- end -}}
{{- range $resource, $wanted := dict "cpu" (or (and .Values.autoscaling.enabled .Values.autoscaling.targetCPUUtilizationPercentage) (and .Values.keda.enabled .Values.keda.targetCPUUtilizationPercentage)) "memory" (and .Values.autoscaling.enabled .Values.autoscaling.targetMemoryUtilizationPercentage) -}}
{{- if $wanted -}}
{{- range prepend $.Values.extraContainers (dict "name" "tickgate" "resources" $.Values.resources) -}}
{{- if not (or (get (default dict (default dict .resources).requests) $resource) (get (default dict (default dict .resources).limits) $resource)) -}}
{{- fail (printf "the autoscaler has a target in percent of the requested %s, but container %s requests none: the cluster could not compute the percentage. Set the request, or set the target to null." $resource .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.keda -}}
{{- if and .enabled (or (lt (int .fallbackReplicas) (int .minReplicas)) (gt (int .fallbackReplicas) (int .maxReplicas))) -}}
{{- fail (printf "keda.fallbackReplicas is %d, outside keda.minReplicas %d to keda.maxReplicas %d." (int .fallbackReplicas) (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkRollout" -}}
{{- with .Values.strategy -}}
{{- if and (eq .type "RollingUpdate") (eq (.rollingUpdate.maxSurge | toString | trimSuffix "%") "0") (eq (.rollingUpdate.maxUnavailable | toString | trimSuffix "%") "0") -}}
{{- fail "strategy.rollingUpdate.maxSurge and maxUnavailable are both 0: no replica could ever be replaced." -}}
{{- end -}}
{{- end -}}
{{- if and .Values.lifecycle.preStop .Values.drain.preStopSeconds -}}
{{- fail "lifecycle.preStop and drain.preStopSeconds are both set: a container has one preStop hook. Choose one." -}}
{{- end -}}
{{- if and .Values.lifecycle.preStop (kindIs "invalid" .Values.terminationGracePeriodSeconds) -}}
{{- fail (printf "lifecycle.preStop without terminationGracePeriodSeconds: the hook runs within the grace period, and the computed one (%s) only covers the drain. Set it to that value plus the duration of the hook." (include "tickgate.gracePeriod" .)) -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkNetwork" -}}
{{- with .Values.service -}}
{{- if ne .type "LoadBalancer" -}}
{{- range $key := list "loadBalancerClass" "loadBalancerIP" "loadBalancerSourceRanges" -}}
{{- if get $.Values.service $key -}}
{{- fail (printf "service.%s is set, but service.type is %s: it requires a LoadBalancer." $key $.Values.service.type) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .nodePort (eq .type "ClusterIP") -}}
{{- fail "service.nodePort is set, but service.type is ClusterIP, which has no node port." -}}
{{- end -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- with .Values.redis.url -}}
{{- $port := regexFind ":[0-9]+$" (regexReplaceAll "^rediss?://([^/?]*).*$" . "${1}") | trimPrefix ":" | default "6379" -}}
{{- if ne $port (toString $.Values.networkPolicy.redisPort) -}}
{{- fail (printf "redis.url has port %s, but networkPolicy.redisPort is %s: the policy would block Redis." $port (toString $.Values.networkPolicy.redisPort)) -}}
{{- end -}}
{{- end -}}
{{- if and (.Values.config.auth).jwks_url (not .Values.networkPolicy.extraEgress) -}}
{{- fail (printf "config.auth.jwks_url is %s, but the network policy only allows replicas to reach DNS and Redis: add its port to networkPolicy.extraEgress." .Values.config.auth.jwks_url) -}}
{{- end -}}
{{- end -}}
{{- if and (gt (len .Values.ipFamilies) 1) (eq .Values.ipFamilyPolicy "SingleStack") -}}
{{- fail (printf "ipFamilies is %s, but ipFamilyPolicy is SingleStack: use one family or another policy." (join ", " .Values.ipFamilies)) -}}
{{- end -}}
{{- if and (gt (len .Values.ipFamilies) 1) (not .Values.ipFamilyPolicy) -}}
{{- fail (printf "ipFamilies is %s without ipFamilyPolicy: two families require PreferDualStack or RequireDualStack." (join ", " .Values.ipFamilies)) -}}
{{- end -}}
{{- if and (eq .Values.listenAddress "0.0.0.0") (or (has "IPv6" .Values.ipFamilies) (hasSuffix "DualStack" .Values.ipFamilyPolicy)) -}}
{{- fail (printf "listenAddress is 0.0.0.0, which is not reachable over IPv6, but %s: set it to \"::\", or leave it empty." (ternary "ipFamilies has IPv6" (printf "ipFamilyPolicy is %s" .Values.ipFamilyPolicy) (has "IPv6" .Values.ipFamilies))) -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkRoutes" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled without a host: set ingress.hosts." -}}
{{- end -}}
{{- with .Values.httpRoute -}}
{{- if and .enabled (not .parentRefs) -}}
{{- fail "httpRoute.enabled without a Gateway: set httpRoute.parentRefs." -}}
{{- end -}}
{{- if and .matches (ne (join "," .paths) "/") -}}
{{- fail "httpRoute.matches and httpRoute.paths are both set: choose one." -}}
{{- end -}}
{{- range .filters -}}
{{- if eq .type "RequestRedirect" -}}
{{- fail "httpRoute.filters has a RequestRedirect: a rule that redirects can't have a backend. Use a separate route (extraObjects)." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkPod" -}}
{{- $ours := list "TICKGATE_CONFIG" "TICKGATE__SERVER__LISTEN" "TICKGATE__SERVER__OPS_LISTEN" "TICKGATE__SERVER__MODE" -}}
{{- $secrets := list "TICKGATE__AUTH__HS256_SECRETS" "TICKGATE__AUTH__API_KEYS" "TICKGATE__REDIS__URL" -}}
{{- range .Values.extraEnv -}}
{{- if or (hasPrefix "TICKGATE__DRAIN__" .name) (has .name $ours) -}}
{{- fail (printf "extraEnv has %s: it would contradict the ports, the probes or the grace period of the pod. Use drain.* or listenAddress." .name) -}}
{{- end -}}
{{- if has .name $secrets -}}
{{- fail (printf "extraEnv has %s, which the chart takes from a Secret: use auth.existingSecret, redis.existingSecret or redis.url, or name another file with %s_FILE." .name .name) -}}
{{- end -}}
{{- end -}}
{{- $taken := include "tickgate.secrets" . | fromYaml | keys | concat (list "config") -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $taken -}}
{{- fail (printf "extraVolumes has a volume %q, a name that the chart uses: choose another." .name) -}}
{{- end -}}
{{- end -}}
{{- range concat .Values.initContainers .Values.extraContainers -}}
{{- if eq .name "tickgate" -}}
{{- fail "a container of initContainers or extraContainers is named tickgate, which is the name of the gateway's container: choose another." -}}
{{- end -}}
{{- end -}}
{{- range .Values.topologySpreadConstraints -}}
{{- if and .minDomains (ne .whenUnsatisfiable "DoNotSchedule") -}}
{{- fail (printf "topologySpreadConstraints: %s has minDomains, which requires whenUnsatisfiable: DoNotSchedule." .topologyKey) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Files named by values must exist in the container, and every mount must refer to a volume. */}}
{{- define "tickgate.checkFiles" -}}
{{- $volumes := include "tickgate.volumes" . | fromYamlArray -}}
{{- $folders := list "/etc/ssl" -}}
{{- range include "tickgate.volumeMounts" . | fromYamlArray -}}
{{- $folders = append $folders (trimSuffix "/" .mountPath) -}}
{{- $mount := .name -}}
{{- $found := false -}}
{{- range $volumes }}{{ if eq .name $mount }}{{ $found = true }}{{ end }}{{ end -}}
{{- if not $found -}}
{{- fail (printf "extraVolumeMounts mounts %q, which is not a volume of the pod: add it to extraVolumes." $mount) -}}
{{- end -}}
{{- end -}}
{{- $named := dict -}}
{{- range $section, $keys := .Values.config -}}
{{- range $key, $value := $keys -}}
{{- if and $value (hasSuffix "_file" $key) }}{{ $_ := set $named (printf "config.%s.%s" $section $key) $value }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $index, $key := (.Values.config.auth).public_keys -}}
{{- $_ := set $named (printf "config.auth.public_keys[%d].path" $index) $key.path -}}
{{- end -}}
{{- range tpl (toYaml .Values.extraEnv) $ | fromYamlArray -}}
{{- if and .value (regexMatch "^TICKGATE__.*_FILE$" .name) }}{{ $_ := set $named (printf "extraEnv %s" .name) .value }}{{ end -}}
{{- end -}}
{{- range $value, $path := $named -}}
{{- $found := false -}}
{{- range $folders }}{{ if or (eq . $path) (hasPrefix (printf "%s/" .) (toString $path)) }}{{ $found = true }}{{ end }}{{ end -}}
{{- if not $found -}}
{{- fail (printf "%s is %v, but nothing is mounted there: add a volume to extraVolumes and its mount to extraVolumeMounts." $value $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tickgate.checkMetrics" -}}
{{- with .Values.metrics.monitor -}}
{{- if gt (include "tickgate.milliseconds" .scrapeTimeout | int64) (include "tickgate.milliseconds" .interval | int64) -}}
{{- fail (printf "metrics.monitor.scrapeTimeout is %s, longer than metrics.monitor.interval %s: Prometheus would refuse the monitor." .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A duration with one unit (ms, s, m, h) in milliseconds. */}}
{{- define "tickgate.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- mul (trimSuffix $unit . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) $unit) -}}
{{- end -}}

{{/* A size in bytes: as Kubernetes writes it (768Mi, 1G), or as Redis does (512mb, by 1024). */}}
{{- define "tickgate.bytes" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $power := dict "k" 1 "m" 2 "g" 3 "t" 4 -}}
{{- $size := trimSuffix $unit $text | float64 -}}
{{- with $unit -}}
{{- $base := ternary 1024 1000 (or (hasSuffix "i" .) (hasSuffix "b" .)) -}}
{{- range until (get $power (lower . | trunc 1) | int) }}{{ $size = mulf $size $base }}{{ end -}}
{{- end -}}
{{- int64 $size -}}
{{- end -}}

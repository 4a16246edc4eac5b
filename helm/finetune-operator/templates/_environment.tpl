{{/*
The operator's settings as environment variables. Empty values are left out, so that the operator's
own default or its complaint about a missing setting counts. `int64` and `toString` keep whole
numbers from being written like 1e+06.
*/}}
{{- define "finetune-operator.environment" -}}
{{- $trainer := dict "image" .Values.trainer.image "appVersion" .Chart.AppVersion }}
{{- $settings := dict
  "TRAINER_IMAGE" (include "finetune-operator.image" $trainer)
  "TRAINER_IMAGE_PULL_POLICY" .Values.trainer.image.pullPolicy
  "TRAINER_IMAGE_PULL_SECRETS" (include "finetune-operator.pullSecretNames" .)
  "NAMESPACES" (join "," .Values.watchNamespaces)
  "HUB_ENDPOINT" .Values.hub.endpoint
  "STORAGE_ENDPOINT" .Values.storage.endpoint
  "STORAGE_REGION" .Values.storage.region
  "STORAGE_CREDENTIALS_SECRET" .Values.storage.credentialsSecret
  "STORAGE_CHECKSUMS" .Values.storage.checksums
  "WORKERS" (int64 .Values.operator.workers)
  "STATUS_INTERVAL_SECONDS" .Values.operator.statusIntervalSeconds
  "PROGRESS_INTERVAL_SECONDS" .Values.operator.progressIntervalSeconds
  "RESYNC_SECONDS" .Values.operator.resyncSeconds
  "HEALTH_PORT" (int64 .Values.operator.healthPort)
  "LOG_FORMAT" .Values.operator.logFormat
  "LOG_LEVEL" .Values.operator.logLevel
}}
{{- range $name, $value := $settings }}
{{- with toString $value }}
- name: FINETUNE_OPERATOR_{{ $name }}
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/*
What the operator may do, for the ClusterRole or the Roles. No Secret, no ConfigMap: credentials are
mounted by the kubelet and never read by the operator.
*/}}
{{- define "finetune-operator.rules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  # Deleted are those that have ended and whose `runPolicy.ttlSecondsAfterFinished` is over.
  verbs: [get, list, watch, delete]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [patch]
# Clusters with OwnerReferencesPermissionEnforcement ask for this before a Job may name its
# FineTuneJob as an owner that blocks deletion.
- apiGroups: [finetune.dev]
  resources: [finetunejobs/finalizers]
  verbs: [update]
# Jobs are made once and never changed. Deleted is the Job of an attempt that must end before it does
# so by itself: suspended, hung, late, or on a lost node. All others go with their FineTuneJob.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# A headless Service, by which the pods of a job with several nodes find each other.
- apiGroups: [""]
  resources: [services]
  verbs: [create]
# Listed to tell users why a pod does not start.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end }}

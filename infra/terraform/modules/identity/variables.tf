variable "name" {
  type = string
}

variable "bucket_arn" {
  type = string
}

variable "key_arn" {
  description = "Of the key that encrypts the bucket."
  type        = string
}

variable "repository_arn" {
  type = string
}

variable "subnet_arns" {
  description = "Where the head may start workers."
  type        = list(string)
}

variable "security_group_arn" {
  description = "What workers are started with."
  type        = string
}

variable "oidc" {
  description = "Who vouches for the pods of a Kubernetes cluster: the provider in IAM and its address without https://; null without a cluster."
  type = object({
    provider_arn = string
    issuer       = string
  })
}

variable "name" {
  description = "Begins the name of everything that is made here; also cluster_name in cluster/aws.yaml, since the head may launch nodes of that cluster only."
  type        = string
  default     = "emo"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name))
    error_message = "name: 2 to 20 lower-case letters, digits and hyphens, a letter first."
  }
}

variable "region" {
  description = "The AWS region."
  type        = string
  # settings: region
  default = "us-east-1"
}

variable "zones" {
  description = "Availability zones, separated by commas; GPUs that one zone has run out of may be had in another."
  type        = string
  # settings: zones
  default = "us-east-1a,us-east-1b"

  validation {
    condition     = can(regex("^[a-z0-9-]+(,[a-z0-9-]+)+$", var.zones)) && length(distinct(split(",", var.zones))) == length(split(",", var.zones))
    error_message = "zones: at least two, for EKS asks for two, separated by a comma alone, as in us-east-1a,us-east-1b."
  }
}

variable "cidr" {
  description = "Addresses of the network."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && endswith(var.cidr, "/16")
    error_message = "cidr: a /16, such as 10.0.0.0/16."
  }
}

variable "ssh_cidrs" {
  description = "Addresses, of a VPN or a network beside this one, from which the nodes take SSH. It needs none: Systems Manager brings SSH to the head."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.ssh_cidrs : try(tonumber(split("/", cidr)[1]) >= 8, false) && can(cidrnetmask(cidr))])
    error_message = "ssh_cidrs: IPv4 ranges of a /8 or smaller, such as 10.8.0.0/16; the whole internet is none."
  }
}

variable "admin_cidrs" {
  description = "Addresses from which the API of Kubernetes is open. Without any, it is open within the network alone."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.admin_cidrs : try(tonumber(split("/", cidr)[1]) >= 16, false) && can(cidrnetmask(cidr))])
    error_message = "admin_cidrs: IPv4 ranges of a /16 or smaller, such as 203.0.113.7/32; the whole internet is none."
  }
}

variable "cache_days" {
  description = "Days after which cached features and prepared posts go; a job makes again what it misses."
  type        = number
  default     = 90
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may delete a bucket and images that are still there. Apply it before you destroy."
  type        = bool
  default     = false
}

variable "enable_kubernetes" {
  description = "Whether an EKS cluster is made, for cluster/kuberay; cluster/aws.yaml does without."
  type        = bool
  default     = false
}

variable "kubernetes_version" {
  description = "Of the EKS cluster: one that AWS still supports as standard."
  type        = string
  default     = "1.35"
}

variable "kubernetes_addons" {
  description = "Parts of Kubernetes that EKS installs and keeps; without vpc-cni no NetworkPolicy is enforced."
  type        = set(string)
  default     = ["aws-ebs-csi-driver", "coredns", "kube-proxy", "vpc-cni"]
}

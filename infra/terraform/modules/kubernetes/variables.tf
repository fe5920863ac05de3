variable "name" {
  type = string
}

variable "subnets" {
  description = "Private ones, in two zones or more."
  type        = list(string)
}

variable "admin_cidrs" {
  type = list(string)
}

variable "release" {
  description = "Of Kubernetes, such as 1.35."
  type        = string
}

variable "addons" {
  type = set(string)
}

variable "node_groups" {
  description = "By the names of the worker groups in cluster/kuberay."
  type = map(object({
    instance_types = list(string)
    gpu            = optional(bool, false)
    spot           = optional(bool, false)
    min_nodes      = optional(number, 0)
    max_nodes      = number
  }))
  default = {
    head           = { instance_types = ["m6i.2xlarge"], min_nodes = 1, max_nodes = 3 } # and what else runs in Kubernetes
    cpu            = { instance_types = ["m6i.4xlarge", "m5.4xlarge"], max_nodes = 8 }
    gpu-small-spot = { instance_types = ["g6.2xlarge", "g5.2xlarge"], gpu = true, spot = true, max_nodes = 8 }
    gpu-small      = { instance_types = ["g6.2xlarge", "g5.2xlarge"], gpu = true, max_nodes = 2 }
    gpu-large-spot = { instance_types = ["g6e.4xlarge"], gpu = true, spot = true, max_nodes = 4 }
    gpu-large      = { instance_types = ["g6e.4xlarge"], gpu = true, max_nodes = 1 }
  }
}

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
    one_zone       = optional(bool, false)
    min_nodes      = optional(number, 0)
    max_nodes      = number
  }))
  default = {
    # What else runs in Kubernetes is here, too. The head's volume lies in a zone, which it cannot leave.
    head           = { instance_types = ["m6i.2xlarge"], one_zone = true, min_nodes = 1, max_nodes = 3 }
    cpu            = { instance_types = ["m6i.4xlarge"], max_nodes = 8 }
    gpu-small-spot = { instance_types = ["g6.xlarge"], gpu = true, spot = true, max_nodes = 8 }
    gpu-small      = { instance_types = ["g6.xlarge"], gpu = true, max_nodes = 8 }
    gpu-large-spot = { instance_types = ["g5.12xlarge"], gpu = true, spot = true, max_nodes = 4 }
    gpu-large      = { instance_types = ["g5.12xlarge"], gpu = true, max_nodes = 4 }
  }
}

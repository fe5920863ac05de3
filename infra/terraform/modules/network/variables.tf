variable "name" {
  type = string
}

variable "cidr" {
  description = "A /16."
  type        = string
}

variable "zones" {
  type = list(string)
}

variable "ssh_cidrs" {
  type = list(string)
}

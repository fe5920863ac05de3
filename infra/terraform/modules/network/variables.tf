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

variable "admin_cidrs" {
  type = list(string)
}

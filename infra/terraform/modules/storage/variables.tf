variable "name" {
  type = string
}

variable "cache_days" {
  type = number
}

variable "force_destroy" {
  type = bool
}

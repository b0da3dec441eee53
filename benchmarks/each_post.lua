-- Asks for the first 100,000 posts, one after the other, and from the beginning again.
local id = 0
request = function()
   id = id % 100000 + 1
   return wrk.format("GET", "/v1/posts/" .. id)
end

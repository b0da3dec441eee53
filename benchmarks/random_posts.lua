-- Asks for one of the first 100,000 posts at a time, at random, the same sequence each run.
math.randomseed(7)
request = function()
   return wrk.format("GET", "/v1/posts/" .. math.random(100000))
end

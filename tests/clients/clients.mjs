// Streams, functions, schemas and the Responses API through clients on Node; prints what each made of it, as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [, , which, baseURL] = process.argv;
const apiKey = "none";
const prompt = "Weather in Rome?";
const both = "Weather in both Rome and Oslo?";
const city = z.object({ name: z.string(), people: z.number() });
const asked = [];

async function openai() {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const messages = [{ role: "user", content: prompt }];
  const runner = client.chat.completions.runTools({
    model: "m",
    messages: [{ role: "user", content: both }],
    stream: true,
    tools: [{
      type: "function",
      function: {
        name: "weather",
        parameters: { type: "object", properties: { place: { type: "string" } } },
        parse: JSON.parse,
        function: ({ place }) => (asked.push(place), "sunny"),
      },
    }],
  });
  const ran = await runner.finalContent();
  const filled = await client.chat.completions.parse({ model: "m", messages, response_format: zodResponseFormat(city, "city") });
  const events = await client.responses.create({ model: "m", input: prompt, stream: true });
  let streamed = "";
  for await (const event of events) if (event.type === "response.output_text.delta") streamed += event.delta;
  const whole = await client.chat.completions.create({ model: "m", messages });
  return { whole: whole.choices[0].message.content, ran, asked, filled: filled.choices[0].message.parsed, streamed };
}

async function sdk(model) {
  const tools = {
    weather: tool({
      inputSchema: z.object({ place: z.string() }),
      execute: async ({ place }) => (asked.push(place), "sunny"),
    }),
  };
  const whole = await generateText({ model, prompt, maxRetries: 0 });
  const ran = streamText({ model, prompt: both, tools, stopWhen: stepCountIs(3), maxRetries: 0 });
  let streamed = "";
  for await (const text of ran.textStream) streamed += text;
  const filled = await generateText({ model, prompt, output: Output.object({ schema: city }), maxRetries: 0 });
  return { whole: whole.text, ran: await ran.text, asked, filled: filled.output, streamed };
}

const clients = {
  openai,
  compatible: () => sdk(createOpenAICompatible({ name: "selfroute", baseURL, apiKey, supportsStructuredOutputs: true })("m")),
  responses: () => sdk(createOpenAI({ baseURL, apiKey })("m")),
};
console.log(JSON.stringify(await clients[which]()));
